/**
 * Running requests to their end, alone and together, and scoring texts.
 *
 * @module
 */
import type { KvReport } from "../../src/butler/settings.ts";
import {
  type Engine,
  type EngineErrorData,
  type FinishReason,
  type GenerateRequest,
  GREEDY,
  type TokenLogprob,
} from "../../src/engine/types.ts";
import { assert } from "std-testing";

/** What a request gave from its first event to its last. */
export interface Answer {
  readonly ids: readonly number[];
  readonly logprobs: readonly (TokenLogprob | null)[];
  readonly promptLogprobs: readonly (TokenLogprob | null)[];
  readonly reason: FinishReason | null;
  readonly error: EngineErrorData | null;
  /** Milliseconds from its first token to its end. */
  readonly predictedMs: number;
  /** Prompt tokens that were found in the cache, and those that were prefilled. */
  readonly cachedTokens: number;
  readonly promptTokens: number;
  /** What was done with its cache. */
  readonly kv: KvReport | null;
}

let numRequests = 0;

/** Greedy and without stop ids unless told otherwise. */
export function request(
  promptIds: readonly number[],
  maxTokens: number,
  more: Partial<GenerateRequest> = {},
): GenerateRequest {
  return {
    id: `request ${numRequests++}`,
    promptIds,
    maxTokens,
    minTokens: 0,
    stopTokenIds: [],
    bannedTokenIds: [],
    sampling: GREEDY,
    logprobs: null,
    promptLogprobs: null,
    ...more,
  };
}

/**
 * Runs a request to its end, whatever that is.
 *
 * @param onToken Told of every token, with the number of those so far.
 */
export async function run(
  engine: Engine,
  wanted: GenerateRequest,
  onToken: (count: number) => void = () => {},
): Promise<Answer> {
  const ids: number[] = [];
  const logprobs: (TokenLogprob | null)[] = [];
  const promptLogprobs: (TokenLogprob | null)[] = [];
  let reason: FinishReason | null = null;
  let error: EngineErrorData | null = null;
  let predictedMs = 0;
  let cachedTokens = 0;
  let promptTokens = 0;
  let kv: KvReport | null = null;
  for await (const event of engine.generate(wanted)) {
    switch (event.type) {
      case "prefill":
        break;
      case "prompt_logprobs":
        assert.equal(event.start, promptLogprobs.length, "a piece of the prompt's is missing");
        promptLogprobs.push(...event.entries);
        break;
      case "token":
        ids.push(event.id);
        logprobs.push(event.logprob);
        onToken(ids.length);
        break;
      case "done":
        reason = event.reason;
        ({ predictedMs, cachedTokens, promptTokens } = event.timings);
        kv = event.kv;
        break;
      case "error":
        error = event.error;
        break;
      default:
        event satisfies never;
    }
  }
  return {
    ids,
    logprobs,
    promptLogprobs,
    reason,
    error,
    predictedMs,
    cachedTokens,
    promptTokens,
    kv,
  };
}

/** {@linkcode run} for a request that has to succeed. */
export async function generate(
  engine: Engine,
  promptIds: readonly number[],
  maxTokens: number,
  more: Partial<GenerateRequest> = {},
): Promise<Answer> {
  const answer = await run(engine, request(promptIds, maxTokens, more));
  assert.equal(answer.error, null);
  return answer;
}

/** Negative log-likelihood of every token but the first, by scoring the prompt. */
export async function scoreByEcho(engine: Engine, ids: readonly number[]): Promise<number[]> {
  const answer = await generate(engine, ids, 0, { promptLogprobs: 0 });
  assert.equal(answer.reason, "length");
  assert.equal(answer.promptLogprobs.length, ids.length);
  assert.equal(answer.promptLogprobs[0], null);
  return answer.promptLogprobs.slice(1).map((entry, index) => {
    assert.ok(entry !== null, "a token has no log-probability");
    assert.equal(entry.id, ids[index + 1]);
    return -entry.logprob;
  });
}

/** The same for the tokens after the first `numPrefilled`, which are fed as decoding would. */
export async function scoreByForcing(
  engine: Engine,
  ids: readonly number[],
  numPrefilled: number,
  more: Parameters<typeof generate>[3] = {},
): Promise<number[]> {
  const forcedIds = ids.slice(numPrefilled);
  const answer = await generate(engine, ids.slice(0, numPrefilled), forcedIds.length, {
    forcedIds,
    logprobs: 0,
    ...more,
  });
  assert.deepEqual(answer.ids, forcedIds);
  return answer.logprobs.map((entry) => -entry!.logprob);
}

/** Gap between the two likeliest tokens; the answer must carry at least two alternatives. */
export function margin(logprob: TokenLogprob | null): number {
  const [first, second] = logprob!.top;
  return first!.logprob - second!.logprob;
}

/** What {@linkcode runTogether} is to run. */
export interface Arrival {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  /** Comes when the sequence before it has this many tokens. */
  readonly afterTokens: number;
}

/** Runs sequences that join and leave at different times. */
export async function runTogether(
  engine: Engine,
  arrivals: readonly Arrival[],
  more: Partial<GenerateRequest> = {},
): Promise<Answer[]> {
  const gates = arrivals.map(() => Promise.withResolvers<void>());
  gates[0]!.resolve();
  return await Promise.all(arrivals.map(async ({ promptIds, maxTokens }, index) => {
    await gates[index]!.promise;
    const next = arrivals[index + 1];
    return await run(engine, request(promptIds, maxTokens, more), (count) => {
      if (count === next?.afterTokens) gates[index + 1]!.resolve();
    });
  }));
}

/**
 * Holds each sequence against what it gives alone. They may part only at a choice that was too
 * close to call; what comes after has another history and is not compared. Both must carry two
 * alternatives.
 *
 * @param smallest Margins under this are too close.
 * @returns Tokens that are the same, of each sequence.
 */
export function compareWithAlone(
  together: readonly Answer[],
  alone: readonly Answer[],
  smallest: number,
): number[] {
  return together.map((answer, index) => {
    const single = alone[index]!;
    assert.equal(answer.error, null);
    assert.equal(answer.ids.length, single.ids.length);
    const parted = answer.ids.findIndex((id, at) => id !== single.ids[at]);
    if (parted < 0) return answer.ids.length;
    const off = margin(single.logprobs[parted]!);
    assert.ok(
      off < smallest,
      `sequence ${index} parts from what it gives alone at token ${parted}, margin ${off}`,
    );
    return parted;
  });
}
