/** Requests that no client of good faith would send. @module */
import { assert } from "std-testing";
import type { Engine } from "../../src/engine/types.ts";
import { DEADLINE_MS, type FuzzCase } from "./_cases.ts";
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
  ["/slots/0?action=save", { filename: "talk" }],
  ["/slots/0?action=restore", { filename: "talk" }],
  ["/slots/1?action=erase", {}],
  ["/v1/completions", { prompt: "Once upon", logprobs: 2, echo: true, n: 2, ...SAMPLING }],
  ["/v1/completions", { prompt: [[1, 2, 3], [4, 5]], stream: true, max_tokens: 3 }],
  ["/v1/chat/completions", { messages: [USER], logprobs: true, top_logprobs: 2, ...SAMPLING }],
  ["/v1/chat/completions", {
    messages: [USER, { role: "assistant", content: "b" }, USER],
    truncate_prompt_tokens: 40,
    ...SAMPLING,
  }],
  ["/v1/completions", { prompt: "Once upon", truncate_prompt_tokens: -1, max_tokens: 3 }],
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
  ["/v1/completions", {
    prompt: "Once upon",
    max_tokens: 3,
    stream: true,
    return_progress: true,
    sse_ping_interval: 0.05,
    return_token_ids: true,
    min_tokens: 1,
    stop_token_ids: [7],
    typical_p: 0.9,
    repeat_last_n: 8,
    skip_special_tokens: false,
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
const PATHS = [
  ...["/", "//", "/v1/models/%00", "/v1/models/..%2f..%2fetc%2fpasswd", "/props?x=%ff"],
  ...["/slots", "/slots?fail_on_no_slot=1", "/slots/9999999999?action=save", "/slots/-1"],
  ...["/metrics", "/openapi.json", "/docs", "/live", "/ready", "/health"],
];

/** A request to be sent. */
export interface Sent {
  readonly note: string;
  readonly path: string;
  readonly init: RequestInit;
}

/**
 * A request that was good before.
 *
 * @param key What the server wants; without one nobody is asked.
 */
export function spoiledRequest(random: Random, key?: string): Sent {
  const [path, body] = oneOf(random, BODIES);
  const headers: Record<string, string> = {};
  if (key !== undefined) headers["authorization"] = random() < 0.97 ? `Bearer ${key}` : "Bearer x";
  if (random() < 0.05) {
    const method = oneOf(random, METHODS);
    const other = oneOf(random, [...PATHS, path]);
    return { note: `${method} ${other}`, path: other, init: { method, headers } };
  }
  const { note, bytes } = mutateJson(JSON.stringify(body), random);
  const type = random() < 0.9 ? TYPES[0]! : oneOf(random, TYPES);
  headers["content-type"] = type;
  if (random() < 0.05) headers["x-request-id"] = "x".repeat(below(random, 4000));
  if (random() < 0.03) headers["origin"] = oneOf(random, ["null", "https://x.example", "\u00e9"]);
  return { note: `POST ${path}: ${note}`, path, init: { method: "POST", headers, body: bytes } };
}

/**
 * Spoiled requests to a server, from a seed. Every answer is good, or an error in the API's form that
 * is the client's own fault. No answer in time is right only while the engine works on one.
 */
export function* requestCases(
  server: { readonly url: string; readonly engine: Engine; readonly key?: string },
  seed: number,
  first: number,
  count: number,
): Generator<FuzzCase> {
  for (let index = first; index < first + count; index++) {
    const { note, path, init } = spoiledRequest(caseRandom(seed, index), server.key);
    yield {
      note,
      bytes: init.body === undefined ? 0 : (init.body as Uint8Array).byteLength,
      run: () => send(server.url + path, init, server.engine),
    };
  }
}

/** Policies that need no file of their own. */
const POLICIES = ["dense", "oracle", "quest", "streaming", "h2o", "snapkv"];

/**
 * Sends what is not spoiled, which must be taken: it also makes the kernels, and code for long texts,
 * which takes longer than any request may take.
 */
export async function sendGood({ url, key }: { readonly url: string; readonly key?: string }) {
  const kinds = POLICIES.map((policy) =>
    ["/v1/completions", {
      prompt: Array.from({ length: 100 }, (_, id) => id + 3),
      max_tokens: 40,
      ignore_eos: true,
      temperature: 0,
      kv: { policy, sinks: 4, window: 8, budget: 16, interval: 2, recall_every: 1 },
    }] as const
  );
  const long = ["/tokenize", { content: "a".repeat(70_000) }] as const;
  for (const [path, body] of [...kinds, ...BODIES, long, long]) {
    // Those are refused as they are.
    if ("tools" in body) continue;
    const response = await fetch(url + path, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    assert.equal(response.status, 200, `${path}: ${text}`);
  }
}

/** Sequences that run or wait. */
export async function numAtWork(engine: Engine): Promise<number> {
  const { runningSequences, waitingSequences } = await engine.stats();
  return runningSequences + waitingSequences;
}

async function send(url: string, init: RequestInit, engine: Engine): Promise<boolean> {
  const gone = new AbortController();
  const start = performance.now();
  const stuck = Promise.withResolvers<never>();
  const loseHeart = async () => {
    // What is being computed may take its time; everything else has to be answered.
    if (await numAtWork(engine) > 0) return gone.abort();
    if (performance.now() - start < DEADLINE_MS) timer = setTimeout(look, PATIENCE_MS);
    else stuck.reject(new Error("no answer, and nothing is computed"));
  };
  const look = () => void loseHeart().catch(stuck.reject);
  let timer = setTimeout(look, PATIENCE_MS);
  try {
    const answered = await Promise.race([check(url, init, gone.signal), stuck.promise]);
    if (!gone.signal.aborted) return answered;
  } catch (error) {
    if (!gone.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
  }
  // It was being answered when the client lost its patience: nothing of it may go on.
  while (await numAtWork(engine) > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  return true;
}

async function check(url: string, init: RequestInit, signal: AbortSignal): Promise<boolean> {
  const response = await fetch(url, { ...init, signal });
  const text = await response.text();
  if (response.ok) return true;
  assert.ok(response.status >= 400 && response.status < 500, `${response.status}: ${text}`);
  checkError(text);
  return false;
}

/** An error in the API's form. */
export function checkError(text: string): void {
  const { error } = JSON.parse(text) as { error: Record<string, unknown> };
  assert.equal(typeof error["message"], "string");
  assert.equal(typeof error["type"], "string");
  assert.doesNotMatch(text, /\bat .*\.ts:\d+|node_modules|file:\/\//, "internals are told");
}
