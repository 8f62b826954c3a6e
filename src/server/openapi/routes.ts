/** What each route of the server does, takes and answers, for `/openapi.json` and `/docs`. @module */
import type { z } from "zod";
import {
  applyTemplateSchema,
  chatSchema,
  completionSchema,
  detokenizeSchema,
  tokenizeSchema,
} from "../schemas.ts";
import { SLOT_ACTIONS, slotFileSchema } from "../slot_routes.ts";
import * as answers from "./answers.ts";
import * as described from "./descriptions.ts";

/** A parameter in the path or the query. */
export interface RouteParameter {
  readonly name: string;
  readonly in: "path" | "query";
  readonly description: string;
  readonly schema: object;
  readonly required?: boolean;
}

/** What a route takes as its body. */
export interface RouteBody {
  readonly schema: z.ZodType;
  /** A line for each field. */
  readonly fields: Readonly<Record<string, string>>;
  /** Absent: the body must be there. */
  readonly optional?: boolean;
  /** Absent: the example is sent without a body. */
  readonly example?: object;
}

/** What is left of a route on a server that lacks what part of it needs. */
export interface RoutePart {
  /** Said after the details. */
  readonly details: string;
  /** Query of an example that works there, without a body. */
  readonly query: string;
}

/** A route as it is described. */
export interface RouteDescription {
  readonly method: "GET" | "POST";
  /** With parameters as `{name}`. */
  readonly path: string;
  readonly tag: "Generation" | "Text" | "Model" | "Operation";
  readonly summary: string;
  readonly details?: string;
  readonly parameters?: readonly RouteParameter[];
  readonly body?: RouteBody;
  /** Query of the example. */
  readonly query?: string;
  readonly partly?: RoutePart;
  /** Schema of the answer, or the media type of one that is no JSON. */
  readonly answer: z.ZodType | { readonly media: string };
  /** Statuses of errors that not every route has. */
  readonly errors?: readonly number[];
  /** Schema of the data of each event, and its name, where it can answer with events too. */
  readonly chunk?: { readonly name: string; readonly schema: z.ZodType };
}

const MESSAGES = [{ role: "user", content: "What is the capital of France?" }];
const STREAM =
  "With `stream` the answer comes as chunks, each the data of a server-sent event; a " +
  "failure is an event with `error` in it. The last event is `[DONE]`.";

/** Every route that has a description. */
export const ROUTES: readonly RouteDescription[] = [
  {
    method: "POST",
    path: "/v1/chat/completions",
    tag: "Generation",
    summary: "an answer to a conversation, with the model's own template",
    details: STREAM,
    body: {
      schema: chatSchema,
      fields: described.CHAT,
      example: { messages: MESSAGES, max_tokens: 32, temperature: 0 },
    },
    answer: answers.chatAnswer,
    errors: [504],
    chunk: { name: "ChatCompletionChunk", schema: answers.chatChunk },
  },
  {
    method: "POST",
    path: "/v1/completions",
    tag: "Generation",
    summary: "text after a prompt: a string, strings, token ids, or arrays of token ids",
    details: STREAM,
    body: {
      schema: completionSchema,
      fields: described.COMPLETION,
      example: { prompt: "Once upon a time", max_tokens: 32 },
    },
    answer: answers.completionAnswer,
    errors: [504],
    chunk: { name: "CompletionChunk", schema: answers.completionChunk },
  },
  {
    method: "POST",
    path: "/tokenize",
    tag: "Text",
    summary: "text to token ids",
    body: {
      schema: tokenizeSchema,
      fields: described.TOKENIZE,
      example: { content: "Hello", with_pieces: true },
    },
    answer: answers.tokenizeAnswer,
  },
  {
    method: "POST",
    path: "/detokenize",
    tag: "Text",
    summary: "token ids to text",
    body: { schema: detokenizeSchema, fields: described.DETOKENIZE, example: { tokens: [1, 2] } },
    answer: answers.detokenizeAnswer,
  },
  {
    method: "POST",
    path: "/apply-template",
    tag: "Text",
    summary: "messages to the prompt that the model's template makes of them",
    details:
      "It is the prompt of a chat with this body, but that it may have more tokens than the " +
      "context here. Its characters have their bound here too.",
    body: {
      schema: applyTemplateSchema,
      fields: described.APPLY_TEMPLATE,
      example: { messages: MESSAGES },
    },
    answer: answers.templateAnswer,
  },
  {
    method: "GET",
    path: "/v1/models",
    tag: "Model",
    summary: "the served model, as a list",
    answer: answers.modelsAnswer,
  },
  {
    method: "GET",
    path: "/v1/models/{name}",
    tag: "Model",
    summary: "the served model",
    parameters: [{
      name: "name",
      in: "path",
      description: "its name, or `default`",
      schema: { type: "string" },
    }],
    answer: answers.modelAnswer,
  },
  {
    method: "GET",
    path: "/props",
    tag: "Model",
    summary: "what is served, and how",
    answer: answers.propsAnswer,
  },
  {
    method: "GET",
    path: "/health",
    tag: "Operation",
    summary:
      "200 when the model can answer, 503 while it loads, after it was lost and while the server ends",
    answer: answers.healthAnswer,
  },
  {
    method: "GET",
    path: "/v1/health",
    tag: "Operation",
    summary: "the same as /health",
    answer: answers.healthAnswer,
  },
  {
    method: "GET",
    path: "/live",
    tag: "Operation",
    summary: "200 as long as the process answers",
    answer: answers.healthAnswer,
  },
  {
    method: "GET",
    path: "/ready",
    tag: "Operation",
    summary: "200 only while a new request would be taken in",
    details: "503 as on /health, and 429 with `Retry-After` while the queue is full.",
    answer: answers.healthAnswer,
  },
  {
    method: "GET",
    path: "/metrics",
    tag: "Operation",
    summary: "counters and gauges in Prometheus' text format",
    details: "Under the names of vLLM (`vllm:`), of llama.cpp (`llamacpp:`) and our own.",
    answer: { media: "text/plain" },
  },
  {
    method: "GET",
    path: "/slots",
    tag: "Operation",
    summary: "what runs in each slot, without any text",
    parameters: [{
      name: "fail_on_no_slot",
      in: "query",
      description: "503 where no slot is free",
      schema: { type: "string" },
    }],
    answer: answers.slotsAnswer,
  },
  {
    method: "POST",
    path: "/slots/{id}",
    tag: "Operation",
    summary: "saves, restores or erases the rows of a slot's last conversation",
    details:
      "`save` and `restore` need a server with `--slot-dir`. Whole blocks of 32 tokens are saved, " +
      "with the salt that keeps them apart. A restored conversation is found by any prompt that " +
      "begins like it. A file that is damaged or of another model is refused.",
    parameters: [
      { name: "id", in: "path", description: "number of the slot", schema: { type: "integer" } },
      {
        name: "action",
        in: "query",
        description: "what is to be done",
        schema: { enum: SLOT_ACTIONS },
        required: true,
      },
    ],
    body: {
      schema: slotFileSchema,
      fields: described.SLOT_FILE,
      optional: true,
      example: { filename: "conversation-1" },
    },
    query: "action=save",
    partly: {
      details: "This server was started without `--slot-dir`: `save` and `restore` are 501 here, " +
        "and `erase` alone works.",
      query: "action=erase",
    },
    answer: answers.slotAnswer,
    errors: [409, 422, 501, 507],
  },
  {
    method: "GET",
    path: "/openapi.json",
    tag: "Operation",
    summary: "this description, for programs",
    answer: { media: "application/json" },
  },
  {
    method: "GET",
    path: "/docs",
    tag: "Operation",
    summary: "this description, for people",
    answer: { media: "text/html" },
  },
];
