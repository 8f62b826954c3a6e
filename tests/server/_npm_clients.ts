/**
 * The npm clients that most programs talk to such a server with, asked alike: what comes back is
 * what their users see, be it text or an error.
 *
 * @module
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { assert } from "std-testing";
import { z } from "zod";

/** How a client is asked. */
export interface Asked {
  readonly url: string;
  /** As the server calls it; the name of test servers unless it is said. */
  readonly servedName?: string;
  readonly content?: string;
  readonly apiKey?: string;
  readonly maxTokens?: number;
  readonly temperature?: number;
  /** The server's `ignore_eos`. */
  readonly ignoreEos?: boolean;
  /** Not at all, unless it is said. */
  readonly maxRetries?: number;
  readonly signal?: AbortSignal;
  /** Stands between client and server. */
  readonly fetch?: typeof fetch;
}

/** A client. */
export interface NpmClient {
  readonly name: string;
  /** The text of a whole answer. */
  ask(asked: Asked): Promise<string>;
  /** Pieces of text as they come; throws the error that the client reports. */
  stream(asked: Asked): AsyncIterable<string>;
}

const CONTENT = "Say something.";
const MODEL = "tiny";

/** What all of them leave out where nobody asks for it. */
function common({ maxRetries = 0, fetch }: Asked) {
  return { maxRetries, ...(fetch === undefined ? {} : { fetch }) };
}

function openaiOf(asked: Asked) {
  const { url, apiKey = "any", content = CONTENT, signal } = asked;
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, ...common(asked) });
  const body = {
    model: asked.servedName ?? MODEL,
    messages: [{ role: "user" as const, content }],
    temperature: asked.temperature ?? 0,
    max_tokens: asked.maxTokens ?? 8,
    ...{ ignore_eos: asked.ignoreEos ?? false },
  };
  return { client, body, options: { signal } };
}

const openai: NpmClient = {
  name: "npm openai",
  async ask(asked) {
    const { client, body, options } = openaiOf(asked);
    return (await client.chat.completions.create(body, options)).choices[0]?.message.content ?? "";
  },
  async *stream(asked) {
    const { client, body, options } = openaiOf(asked);
    const stream = await client.chat.completions.create({ ...body, stream: true }, options);
    for await (const chunk of stream) {
      const text = chunk.choices[0]?.delta.content ?? "";
      if (text !== "") yield text;
    }
  },
};

function aiOf(asked: Asked) {
  const { url, apiKey = "any", content = CONTENT, signal } = asked;
  const { maxRetries, ...more } = common(asked);
  const provider = createOpenAICompatible({
    name: "tokenbutler",
    baseURL: `${url}/v1`,
    apiKey,
    includeUsage: true,
    ...more,
  });
  return {
    model: provider.chatModel(asked.servedName ?? MODEL),
    messages: [{ role: "user" as const, content }],
    temperature: asked.temperature ?? 0,
    maxOutputTokens: asked.maxTokens ?? 8,
    providerOptions: { tokenbutler: { ignore_eos: asked.ignoreEos ?? false } },
    maxRetries,
    ...(signal === undefined ? {} : { abortSignal: signal }),
  };
}

const ai: NpmClient = {
  name: "npm ai",
  ask: async (asked) => (await generateText(aiOf(asked))).text,
  async *stream(asked) {
    const errors: unknown[] = [];
    const stream = streamText({ ...aiOf(asked), onError: ({ error }) => void errors.push(error) });
    yield* stream.textStream;
    if (errors.length === 0) return;
    assert.equal(errors.length, 1);
    // Where no step began there is no reason either: it rejects.
    assert.equal(await stream.finishReason.then((reason) => reason, () => "error"), "error");
    throw errors[0];
  },
};

function langchainOf(asked: Asked) {
  const { maxRetries, ...more } = common(asked);
  const model = new ChatOpenAI({
    model: asked.servedName ?? MODEL,
    apiKey: asked.apiKey ?? "any",
    temperature: asked.temperature ?? 0,
    maxTokens: asked.maxTokens ?? 8,
    maxRetries,
    modelKwargs: { ignore_eos: asked.ignoreEos ?? false },
    configuration: { baseURL: `${asked.url}/v1`, ...more },
  });
  const messages = [new HumanMessage(asked.content ?? CONTENT)];
  const options = asked.signal === undefined ? {} : { signal: asked.signal };
  return { model, messages, options };
}

const langchain: NpmClient = {
  name: "npm @langchain/openai",
  async ask(asked) {
    const { model, messages, options } = langchainOf(asked);
    return (await model.invoke(messages, options)).text;
  },
  async *stream(asked) {
    const { model, messages, options } = langchainOf(asked);
    for await (const chunk of await model.stream(messages, options)) {
      if (chunk.text !== "") yield chunk.text;
    }
  },
};

/** All of them. */
export const NPM_CLIENTS: readonly NpmClient[] = [openai, ai, langchain];

const failed = z.object({ status: z.int().optional(), statusCode: z.int().optional() });

/** The status that a client's error tells, by whatever name, or the error that it was made of. */
export function statusOf(error: unknown): number | undefined {
  const { status, statusCode } = failed.parse(error);
  const { cause } = error as Error;
  return status ?? statusCode ?? (cause instanceof Error ? statusOf(cause) : undefined);
}
