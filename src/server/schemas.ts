/** One schema a route; the types of requests are inferred from them. @module */
import { z } from "zod";
import { kvSchema } from "../butler/settings_wire.ts";
import { MAX_TOP_LOGPROBS } from "../engine/types.ts";
import {
  BadValue,
  checked,
  count,
  flag,
  ID_SHAPE,
  IDS_SHAPE,
  int,
  num,
  readBy,
  readId,
  readIds,
  readList,
  text,
} from "./fields.ts";

/** Prompts in one request. */
export const MAX_PROMPTS = 256;
/** Answers to one prompt. */
export const MAX_COMPLETIONS = 16;
const MAX_STOPS = 16;
const MAX_STOP_LENGTH = 4096;
const MAX_STOP_IDS = 1024;
const MAX_BIASES = 1024;
const MAX_MESSAGES = 16_384;
const MAX_NAME = 256;
/** The most that `sse_ping_interval` can be. */
export const MAX_PING_SECONDS = 86_400;
/** Tokenizing holds up everything else that this isolate does. */
const MAX_TOKENIZE_LENGTH = 512 * 1024;
/** More than any context has. */
const MAX_DETOKENIZE_IDS = 1024 * 1024;

const ROLES = ["system", "developer", "user", "assistant", "tool"] as const;

/** Changes to the logits of single tokens. */
export interface LogitBias {
  readonly added: readonly (readonly [number, number])[];
  readonly banned: readonly number[];
}

const biasValue = num(-100, 100);
const BIAS_VALUE_SHAPE = {
  anyOf: [{ type: "number", minimum: -100, maximum: 100 }, { const: false }],
};

function readBias(value: unknown): LogitBias {
  const added: [number, number][] = [];
  const banned: number[] = [];
  const take = (id: number, bias: unknown) => {
    if (bias === false) banned.push(id);
    else added.push([id, readBy(biasValue, bias)]);
  };
  // llama.cpp takes a list of pairs too, with `false` for a token that must not come.
  if (Array.isArray(value)) {
    readList(value, { min: 0, max: MAX_BIASES, what: "a list" }, (pair) => {
      if (!Array.isArray(pair) || pair.length !== 2) {
        throw new BadValue("must be a pair of token id and bias");
      }
      take(readId(pair[0]), pair[1]);
    });
    return { added, banned };
  }
  if (typeof value !== "object" || value === null) {
    throw new BadValue("must be an object of token ids and biases");
  }
  const entries = Object.entries(value);
  if (entries.length > MAX_BIASES) throw new BadValue(`must have at most ${MAX_BIASES} entries`);
  for (const [key, bias] of entries) {
    if (!/^\d{1,10}$/.test(key)) throw new BadValue("must have token ids as keys");
    try {
      take(readId(Number(key)), bias);
    } catch (thrown) {
      throw thrown instanceof BadValue ? thrown.under(key) : thrown;
    }
  }
  return { added, banned };
}

function readStop(value: unknown): string {
  if (typeof value !== "string") throw new BadValue("must be a string");
  if (value.length > MAX_STOP_LENGTH) {
    throw new BadValue(`must have at most ${MAX_STOP_LENGTH} characters`);
  }
  // Half a character can never be found in text that has only whole ones.
  if (!value.isWellFormed()) throw new BadValue("must be valid Unicode");
  return value;
}

function readStops(value: unknown): string[] {
  const what = "a string or a list of strings";
  const list = typeof value === "string" ? [value] : value;
  // An empty string stops nothing; some clients send it for "none".
  return readList(list, { min: 0, max: MAX_STOPS, what }, readStop).filter((stop) => stop !== "");
}

/** More than any prompt has. */
const MAX_CUT = 2 ** 31 - 1;

function readTruncation(value: unknown): number {
  if (value === -1) return -1;
  const isNumber = typeof value === "number" && Number.isInteger(value);
  if (isNumber && value > 0 && value <= MAX_CUT) return value;
  throw new BadValue(
    "must be a number of tokens, 1 or more, or -1 for what the context has room for",
  );
}

const TRUNCATION_SHAPE = {
  anyOf: [{ const: -1 }, { type: "integer", minimum: 1, maximum: MAX_CUT }],
};
const BIAS_SHAPE = {
  anyOf: [
    { type: "object", additionalProperties: BIAS_VALUE_SHAPE, maxProperties: MAX_BIASES },
    {
      type: "array",
      maxItems: MAX_BIASES,
      items: { type: "array", prefixItems: [ID_SHAPE, BIAS_VALUE_SHAPE], minItems: 2, maxItems: 2 },
    },
  ],
};
const STOP_SHAPE = oneOrSeveral({ type: "string", maxLength: MAX_STOP_LENGTH }, MAX_STOPS);
const CONTENT_SHAPE = {
  anyOf: [
    { type: "string" },
    {
      type: "array",
      minItems: 1,
      items: {
        type: "object",
        properties: { type: { const: "text" }, text: { type: "string" } },
        required: ["type", "text"],
      },
    },
    { type: "null" },
  ],
};
const PROMPT_SHAPE = {
  anyOf: [
    ...oneOrSeveral({ type: "string" }, MAX_PROMPTS, 1).anyOf,
    IDS_SHAPE,
    { type: "array", items: IDS_SHAPE, minItems: 1, maxItems: MAX_PROMPTS },
  ],
};

/** One of a kind, or a list of them. */
function oneOrSeveral(items: object, maxItems: number, minItems = 0) {
  return { anyOf: [items, { type: "array", items, minItems, maxItems }] };
}

const streamOptions = z.object({
  include_usage: flag().nullish().describe("a last chunk with `usage`"),
  continuous_usage_stats: flag().nullish().describe("`usage` in each chunk"),
}, { error: "must be an object" });

/** Most tokens of an answer. */
const answerFields = {
  max_tokens: count().optional(),
  max_completion_tokens: count().optional(),
};

/** What a prompt is cut to. */
const cutFields = { truncate_prompt_tokens: checked(readTruncation, TRUNCATION_SHAPE).optional() };

/** What both ways to generate have in common; the bounds are those of the OpenAI API or wider. */
const generationFields = {
  model: text().optional(),
  stream: flag().default(false),
  stream_options: streamOptions.optional(),
  ...answerFields,
  min_tokens: count().default(0),
  n: int(1, MAX_COMPLETIONS).default(1),
  best_of: int(1, MAX_COMPLETIONS).optional(),
  temperature: num(0, 2).default(1),
  top_p: num(0, 1).default(1),
  // -1 is how vLLM spells "off".
  top_k: int(-1, 2 ** 31 - 1).default(0),
  min_p: num(0, 1).default(0),
  typical_p: num(0, 1).default(1),
  repetition_penalty: num(0, 10).optional(),
  repeat_penalty: num(0, 10).optional(),
  repeat_last_n: int(-1, 2 ** 31 - 1).default(64),
  frequency_penalty: num(-2, 2).default(0),
  presence_penalty: num(-2, 2).default(0),
  logit_bias: checked(readBias, BIAS_SHAPE).optional(),
  seed: int(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER).optional(),
  stop: checked(readStops, STOP_SHAPE).optional(),
  stop_token_ids: checked(
    (value) => readIds(value, MAX_STOP_IDS),
    { ...IDS_SHAPE, maxItems: MAX_STOP_IDS },
  ).optional(),
  ignore_eos: flag().default(false),
  skip_special_tokens: flag().default(true),
  return_token_ids: flag().default(false),
  kv: kvSchema.optional(),
  // As llama.cpp and vLLM name them.
  cache_prompt: flag().default(true),
  cache_salt: text(MAX_NAME).optional(),
  ...cutFields,
  return_progress: flag().default(false),
  /** Seconds; 0 and less are "none". */
  sse_ping_interval: num(-1, MAX_PING_SECONDS).optional(),
};

const generationSchema = z.object(generationFields);
/** The fields that both generation routes share, checked. */
export type GenerationBody = z.output<typeof generationSchema>;

/** A prompt as text or as token ids. */
export type Prompt = string | readonly number[];

function readPrompts(value: unknown): readonly Prompt[] {
  if (typeof value === "string") return [value];
  const what = "a string, a list of strings, a list of token ids or a list of such lists";
  if (!Array.isArray(value)) throw new BadValue(`must be ${what}`);
  if (typeof value[0] === "number") return [readIds(value)];
  return readList(value, { min: 1, max: MAX_PROMPTS, what }, (prompt) => {
    if (typeof prompt === "string") return prompt;
    if (Array.isArray(prompt)) return readIds(prompt);
    throw new BadValue("must be a string or a list of token ids");
  });
}

/** Body of `POST /v1/completions`. */
export const completionSchema = z.object({
  ...generationFields,
  prompt: checked(readPrompts, PROMPT_SHAPE),
  echo: flag().default(false),
  logprobs: int(0, MAX_TOP_LOGPROBS).optional(),
  /** A field of chats, where it means something; here it only has the same bounds. */
  top_logprobs: int(0, MAX_TOP_LOGPROBS).optional(),
  /** Whether the tokenizer's beginning-of-text token goes before text, as the model asks. */
  add_special_tokens: flag().default(true),
  parse_special: flag().default(true),
});
/** A checked body of `POST /v1/completions`. */
export type CompletionBody = z.output<typeof completionSchema>;

function readPart(value: unknown): string {
  if (typeof value !== "object" || value === null) throw new BadValue("must be a content part");
  const { type, text: content } = value as { type?: unknown; text?: unknown };
  if (type !== "text") {
    throw new BadValue("must be `text`: this server takes no other content", ["type"]);
  }
  if (typeof content !== "string") throw new BadValue("must be a string", ["text"]);
  return content;
}

function readContent(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "string") return value;
  const what = "a string or a list of text parts";
  const parts = readList(value, { min: 1, max: MAX_MESSAGES, what }, readPart);
  return parts.join("\n");
}

const messageSchema = z.object({
  role: z.enum(ROLES, { error: `must be one of ${ROLES.join(", ")}` }),
  content: checked(readContent, CONTENT_SHAPE).optional(),
  name: text(MAX_NAME).nullish(),
}, { error: "must be a message: an object with `role` and `content`" });

function readMessage(value: unknown) {
  const message = readBy(messageSchema, value);
  const { tool_calls: calls, function_call: call } = value as Record<string, unknown>;
  if ((Array.isArray(calls) && calls.length > 0) || (call !== undefined && call !== null)) {
    const field = call === undefined || call === null ? "tool_calls" : "function_call";
    throw new BadValue("is not supported: this server has no tools", [field]);
  }
  // An assistant message may lack content in the OpenAI API; nothing else may.
  if (message.content === undefined && message.role !== "assistant") {
    throw new BadValue("is required", ["content"]);
  }
  return {
    role: message.role,
    content: message.content ?? "",
    ...(typeof message.name === "string" ? { name: message.name } : {}),
  };
}

const messages = checked(
  (value) =>
    readList(value, { min: 1, max: MAX_MESSAGES, what: "a list of messages" }, readMessage),
  {
    type: "array",
    minItems: 1,
    maxItems: MAX_MESSAGES,
    items: z.toJSONSchema(messageSchema, { io: "input" }),
  },
);

/** Body of `POST /v1/chat/completions`. */
export const chatSchema = z.object({
  ...generationFields,
  messages,
  logprobs: flag().default(false),
  top_logprobs: int(0, MAX_TOP_LOGPROBS).optional(),
  add_generation_prompt: flag().default(true),
});
/** A checked body of `POST /v1/chat/completions`. */
export type ChatBody = z.output<typeof chatSchema>;
/** Body of `POST /tokenize`, as llama.cpp has it. */
export const tokenizeSchema = z.object({
  content: text(MAX_TOKENIZE_LENGTH),
  add_special: flag().default(false),
  parse_special: flag().default(true),
  with_pieces: flag().default(false),
});

/** Body of `POST /detokenize`, as llama.cpp has it. */
export const detokenizeSchema = z.object({
  tokens: checked(
    (value) => readIds(value, MAX_DETOKENIZE_IDS),
    { ...IDS_SHAPE, maxItems: MAX_DETOKENIZE_IDS },
  ),
});

/** Body of `POST /apply-template`: what decides the prompt of a chat. */
export const applyTemplateSchema = z.object({
  messages,
  add_generation_prompt: flag().default(true),
  ...cutFields,
  ...answerFields,
});
