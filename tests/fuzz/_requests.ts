/** Requests that no client of good faith would send. @module */
import { assert } from "std-testing";
import type { FuzzCase } from "./_cases.ts";
import { below, caseRandom, mutateJson, oneOf, type Random } from "./_mutate.ts";

/** Time after which a client that is being answered goes away. */
const PATIENCE_MS = 300;

const USER = { role: "user", content: "Say <|eot_id|> twice." };
const TOOL = {
  type: "function",
  function: { name: "f", parameters: { type: "object", properties: { a: { type: "string" } } } },
};
const SAMPLING = {
  max_tokens: 3,
  temperature: 0.7,
  top_p: 0.9,
  top_k: 20,
  min_p: 0.05,
  seed: 7,
  stop: ["x", "yy"],
  logit_bias: { "5": -3 },
  frequency_penalty: 0.1,
  presence_penalty: 0.1,
  repetition_penalty: 1.1,
  cache_prompt: true,
  cache_salt: "s",
  kv: { policy: "oracle", sinks: 4, window: 8, budget: 16, interval: 2, recall_every: 1 },
};

/** Bodies that are good before they are spoiled. */
const BODIES: readonly (readonly [path: string, body: object])[] = [
  ["/v1/completions", { prompt: "Once upon", logprobs: 2, echo: true, n: 2, ...SAMPLING }],
  ["/v1/completions", { prompt: [[1, 2, 3], [4, 5]], stream: true, max_tokens: 3 }],
  ["/v1/chat/completions", { messages: [USER], logprobs: true, top_logprobs: 2, ...SAMPLING }],
  ["/v1/chat/completions", {
    messages: [{ role: "system", content: "Be brief." }, USER, {
      role: "user",
      content: [{ type: "text", text: "a" }],
    }],
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: 3,
  }],
  ["/v1/chat/completions", {
    messages: [USER],
    tools: [TOOL],
    tool_choice: "auto",
    response_format: { type: "text" },
    max_completion_tokens: 3,
  }],
  ["/tokenize", { content: "a b c", add_special: true, with_pieces: true }],
  ["/detokenize", { tokens: [1, 2, 3] }],
  ["/apply-template", { messages: [USER] }],
];

const METHODS = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"];
const TYPES = [
  "application/json",
  "text/plain",
  "application/x-www-form-urlencoded",
  "a/b; c=\u00e9",
];
const PATHS = ["/", "//", "/v1/models/%00", "/v1/models/..%2f..%2fetc%2fpasswd", "/props?x=%ff"];

/** A request to be sent. */
export interface Sent {
  readonly note: string;
  readonly path: string;
  readonly init: RequestInit;
}

/** A request that was good before. */
export function spoiledRequest(random: Random): Sent {
  const [path, body] = oneOf(random, BODIES);
  if (random() < 0.05) {
    const method = oneOf(random, METHODS);
    const other = oneOf(random, [...PATHS, path]);
    return { note: `${method} ${other}`, path: other, init: { method } };
  }
  const { note, bytes } = mutateJson(JSON.stringify(body), random);
  const type = random() < 0.9 ? TYPES[0]! : oneOf(random, TYPES);
  const headers: Record<string, string> = { "content-type": type };
  if (random() < 0.05) headers["x-request-id"] = "x".repeat(below(random, 4000));
  return { note: `POST ${path}: ${note}`, path, init: { method: "POST", headers, body: bytes } };
}

/**
 * Spoiled requests to a server, from a seed. Every answer is good, or an error in the API's form that
 * is the client's own fault.
 */
export function* requestCases(
  url: string,
  seed: number,
  first: number,
  count: number,
): Generator<FuzzCase> {
  for (let index = first; index < first + count; index++) {
    const { note, path, init } = spoiledRequest(caseRandom(seed, index));
    yield {
      note,
      bytes: init.body === undefined ? 0 : (init.body as Uint8Array).byteLength,
      run: () => send(url + path, init),
    };
  }
}

async function send(url: string, init: RequestInit): Promise<boolean> {
  const gone = new AbortController();
  const timer = setTimeout(() => gone.abort(), PATIENCE_MS);
  try {
    const response = await fetch(url, { ...init, signal: gone.signal });
    const text = await response.text();
    if (response.ok) return true;
    assert.ok(response.status >= 400 && response.status < 500, `${response.status}: ${text}`);
    if (init.method === "HEAD") return false;
    const { error } = JSON.parse(text) as { error: Record<string, unknown> };
    assert.equal(typeof error["message"], "string");
    assert.equal(typeof error["type"], "string");
    assert.doesNotMatch(text, /\bat .*\.ts:\d+|node_modules|file:\/\//, "internals are told");
    return false;
  } catch (error) {
    // It was being answered when the client lost its patience.
    if (gone.signal.aborted) return true;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
