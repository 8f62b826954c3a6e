/**
 * A plain client for tests of the wire. Its schemas say what an answer must look like, strictly:
 * a member that is not listed fails the test.
 *
 * @module
 */
import { assert } from "std-testing";
import { z } from "zod";

const usage = z.strictObject({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.strictObject({ cached_tokens: z.int() }),
});
const timings = z.strictObject({
  cache_n: z.int(),
  prompt_n: z.int(),
  prompt_ms: z.number(),
  prompt_per_token_ms: z.number(),
  prompt_per_second: z.number(),
  predicted_n: z.int(),
  predicted_ms: z.number(),
  predicted_per_token_ms: z.number(),
  predicted_per_second: z.number(),
});
const kvLayer = z.strictObject({
  role: z.enum(["dense", "window", "selected"]),
  budgets: z.array(z.int()).optional(),
  weights: z.array(z.number()).optional(),
  interval: z.int().optional(),
});
export const kv = z.strictObject({
  policy: z.string(),
  sinks: z.int(),
  window: z.int(),
  budget: z.union([z.int(), z.string().regex(/^[\d.]+%$/)]),
  interval: z.int(),
  neighbours: z.boolean(),
  dense_layers: z.int().optional(),
  table: z.union([z.boolean(), z.strictObject({ layers: z.array(kvLayer) })]).optional(),
  fetch: z.enum(["in-step", "ahead"]),
  recall_every: z.int(),
  rows_per_step: z.number(),
  bytes_per_step: z.number(),
  resident_share: z.number(),
  tiers: z.strictObject({ device: z.int(), host: z.int(), disk: z.int() }),
  recall: z.strictObject({ mass: z.number(), overlap: z.number(), steps: z.int() }).optional(),
  notes: z.array(z.string()).optional(),
  restless_layers: z.array(z.int()).optional(),
});
const progress = z.strictObject({
  total: z.int(),
  cache: z.int(),
  processed: z.int(),
  time_ms: z.int(),
});
const finishReason = z.enum(["stop", "length"]);
const ids = z.array(z.int());

const completionLogprobs = z.strictObject({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.int()),
});
const chatToken = z.strictObject({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int()).nullable(),
});
const chatLogprobs = z.strictObject({
  content: z.array(z.strictObject({ ...chatToken.shape, top_logprobs: z.array(chatToken) })),
  refusal: z.null(),
});

const envelope = {
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
};
const completionChoice = {
  index: z.int(),
  text: z.string(),
  logprobs: completionLogprobs.nullable(),
  token_ids: ids.optional(),
  prompt_token_ids: ids.optional(),
};
const completionEnvelope = {
  ...envelope,
  id: z.string().startsWith("cmpl-"),
  object: z.literal("text_completion"),
};
const chatEnvelope = {
  ...envelope,
  id: z.string().startsWith("chatcmpl-"),
  prompt_token_ids: ids.optional(),
};

export const completion = z.strictObject({
  ...completionEnvelope,
  choices: z.array(z.strictObject({ ...completionChoice, finish_reason: finishReason })),
  usage,
  timings,
  kv: kv.optional(),
  truncated_prompt_tokens: z.int().optional(),
});
export const completionChunk = z.strictObject({
  ...completionEnvelope,
  choices: z.array(z.strictObject({ ...completionChoice, finish_reason: finishReason.nullable() }))
    .max(1),
  usage: usage.nullish(),
  timings: timings.optional(),
  prompt_progress: progress.optional(),
  kv: kv.optional(),
  truncated_prompt_tokens: z.int().optional(),
});
export const chat = z.strictObject({
  ...chatEnvelope,
  object: z.literal("chat.completion"),
  choices: z.array(z.strictObject({
    index: z.int(),
    message: z.strictObject({
      role: z.literal("assistant"),
      content: z.string(),
      refusal: z.null(),
    }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: finishReason,
    token_ids: ids.optional(),
  })),
  usage,
  timings,
  kv: kv.optional(),
  truncated_prompt_tokens: z.int().optional(),
});
export const chatChunk = z.strictObject({
  ...chatEnvelope,
  object: z.literal("chat.completion.chunk"),
  choices: z.array(z.strictObject({
    index: z.int(),
    delta: z.strictObject({
      role: z.literal("assistant").optional(),
      content: z.string().optional(),
    }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: finishReason.nullable(),
    token_ids: ids.optional(),
  })).max(1),
  usage: usage.nullish(),
  timings: timings.optional(),
  prompt_progress: progress.optional(),
  kv: kv.optional(),
  truncated_prompt_tokens: z.int().optional(),
});
export const failure = z.strictObject({
  error: z.strictObject({
    message: z.string().min(1),
    type: z.enum([
      "invalid_request_error",
      "authentication_error",
      "permission_error",
      "not_found_error",
      "rate_limit_error",
      "timeout_error",
      "server_error",
      "unavailable_error",
    ]),
    param: z.string().nullable(),
    code: z.union([z.string(), z.literal(503)]).nullable(),
    n_prompt_tokens: z.int().optional(),
    n_ctx: z.int().optional(),
  }),
});

type Target = { readonly url: string };

/** Sends JSON, or a string as it is. */
export function post(
  server: Target,
  path: string,
  body: unknown,
  init: RequestInit = {},
): Promise<Response> {
  return fetch(`${server.url}${path}`, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
    headers: { "content-type": "application/json" },
    ...init,
  });
}

/** Takes the JSON of a response, which must have a certain status and shape. */
export async function readAs<S extends z.ZodType>(
  schema: S,
  response: Response,
  status = 200,
): Promise<z.output<S>> {
  const text = await response.text();
  assert.equal(response.status, status, text);
  assert.match(response.headers.get("content-type") ?? "", /^application\/json/);
  assert.ok(response.headers.get("x-request-id"));
  return schema.parse(JSON.parse(text));
}

export const postCompletion = async (server: Target, body: object) =>
  readAs(completion, await post(server, "/v1/completions", body));
export const postChat = async (server: Target, body: object) =>
  readAs(chat, await post(server, "/v1/chat/completions", body));
export const postFailing = async (server: Target, path: string, body: unknown, status: number) =>
  (await readAs(failure, await post(server, path, body), status)).error;

/** The data of each event of a stream that is over. */
export function eventData(text: string): string[] {
  const events = text.split("\n\n");
  assert.equal(events.pop(), "", "the last event must be complete");
  return events.map((event) => {
    assert.ok(event.startsWith("data: "), event);
    assert.ok(!event.includes("\n"), event);
    return event.slice("data: ".length);
  });
}

/** Chunks of a stream, which must end with `[DONE]`. */
export async function readChunks<S extends z.ZodType>(
  schema: S,
  response: Response,
): Promise<z.output<S>[]> {
  const text = await response.text();
  assert.equal(response.status, 200, text);
  assert.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
  assert.equal(response.headers.get("cache-control"), "no-cache, no-transform");
  assert.equal(response.headers.get("x-accel-buffering"), "no");
  const data = eventData(text);
  assert.equal(data.pop(), "[DONE]");
  return data.map((item) => schema.parse(JSON.parse(item)));
}

export const streamCompletion = async (server: Target, body: object) =>
  readChunks(completionChunk, await post(server, "/v1/completions", { ...body, stream: true }));
export const streamChat = async (server: Target, body: object) =>
  readChunks(chatChunk, await post(server, "/v1/chat/completions", { ...body, stream: true }));

/** The only element. */
export function only<T>(list: readonly T[]): T {
  assert.equal(list.length, 1);
  return list[0] as T;
}

/** Text of the first choice of a streamed completion. */
export const textOf = (chunks: readonly z.output<typeof completionChunk>[], index = 0) =>
  chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index)
    .map((choice) => choice.text).join("");

/** Waits until something is so. */
export async function eventually(check: () => Promise<boolean> | boolean, withinMs: number) {
  const deadline = performance.now() + withinMs;
  while (!await check()) {
    assert.ok(performance.now() < deadline, `not within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
