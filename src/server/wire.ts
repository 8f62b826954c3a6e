/** Parts of answers that completions and chat share. @module */
import { combineReports, wireReport } from "../butler/report.ts";
import type { KvReport } from "../butler/settings.ts";
import type { RequestTimings } from "../engine/types.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { FinishEvent, ProgressEvent } from "./generation.ts";

/** Members that every answer and every chunk of one request have in common. */
export interface Envelope {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/** A new id for an answer. */
export function newId(prefix: "cmpl" | "chatcmpl"): string {
  return `${prefix}-${crypto.randomUUID().replaceAll("-", "")}`;
}

/** Token counts, as OpenAI names them. */
export function usageBody(numPrompt: number, numCompletion: number, numCached: number) {
  return {
    prompt_tokens: numPrompt,
    completion_tokens: numCompletion,
    total_tokens: numPrompt + numCompletion,
    prompt_tokens_details: { cached_tokens: numCached },
  };
}

function rate(tokens: number, ms: number) {
  return {
    perTokenMs: tokens > 0 ? ms / tokens : 0,
    perSecond: ms > 0 ? tokens * 1000 / ms : 0,
  };
}

/** Timings, as llama.cpp names them. */
export function timingsBody(timings: RequestTimings) {
  const prompt = rate(timings.promptTokens, timings.promptMs);
  const predicted = rate(timings.predictedTokens, timings.predictedMs);
  return {
    cache_n: timings.cachedTokens,
    prompt_n: timings.promptTokens,
    prompt_ms: timings.promptMs,
    prompt_per_token_ms: prompt.perTokenMs,
    prompt_per_second: prompt.perSecond,
    predicted_n: timings.predictedTokens,
    predicted_ms: timings.predictedMs,
    predicted_per_token_ms: predicted.perTokenMs,
    predicted_per_second: predicted.perSecond,
  };
}

/** How far a prompt is, as llama.cpp says it. */
export function progressBody({ total, cached, processed, ms }: ProgressEvent) {
  return { prompt_progress: { total, cache: cached, processed, time_ms: Math.round(ms) } };
}

/** Member `kv` of an answer: what was done with the KV cache, where anything is known of it. */
function kvMember(report: KvReport | null) {
  return report === null ? {} : { kv: wireReport(report) };
}

/** Member of an answer whose prompts were to be cut. */
function truncatedMember(numTokens: number | null | undefined) {
  return typeof numTokens === "number" ? { truncated_prompt_tokens: numTokens } : {};
}

/** What is known of a request's tokens before it runs. */
export interface TallyOptions {
  /** Tokens of all prompts; a prompt with several answers counts once. */
  readonly numPromptTokens: number;
  /** Choices of each prompt, one after the other. */
  readonly numAnswers: number;
  /** Tokens that were left out of each prompt; null: none were to be. */
  readonly truncated: readonly number[] | null;
}

/** Counts of tokens and time over all choices of a request, kept while they come. */
export class Tally {
  #numTokens = new Map<number, number>();
  #finished: FinishEvent[] = [];

  constructor(private readonly options: TallyOptions) {}

  add(event: { readonly index: number; readonly numTokens: number }): void {
    this.#numTokens.set(event.index, event.numTokens);
  }

  /** Takes the end of a choice; gives what its last chunk says of it alone. */
  finish(event: FinishEvent) {
    this.add(event);
    this.#finished.push(event);
    const { numAnswers, truncated } = this.options;
    return {
      timings: timingsBody(event.timings),
      ...kvMember(event.kv),
      ...truncatedMember(truncated?.[Math.floor(event.index / numAnswers)]),
    };
  }

  usage() {
    const numCompletion = this.#numTokens.values().reduce((sum, count) => sum + count, 0);
    return usageBody(this.options.numPromptTokens, numCompletion, this.#numCached());
  }

  /** Prompt tokens that none of a prompt's answers had to prefill. */
  #numCached(): number {
    const least = new Map<number, number>();
    for (const { index, timings } of this.#finished) {
      const prompt = Math.floor(index / this.options.numAnswers);
      least.set(prompt, Math.min(least.get(prompt) ?? Infinity, timings.cachedTokens));
    }
    return least.values().reduce((sum, count) => sum + count, 0);
  }

  /** Tokens that were left out of all prompts. */
  truncated() {
    return truncatedMember(
      this.options.truncated?.reduce((sum, numTokens) => sum + numTokens, 0),
    );
  }

  /** Tokens of all choices over the time of the longest: they run side by side. */
  timings() {
    const all = this.#finished.map((event) => event.timings);
    const sum = (pick: (timings: RequestTimings) => number) =>
      all.reduce((total, timings) => total + pick(timings), 0);
    const longest = (pick: (timings: RequestTimings) => number) =>
      all.reduce((most, timings) => Math.max(most, pick(timings)), 0);
    return timingsBody({
      queueMs: longest((timings) => timings.queueMs),
      promptTokens: sum((timings) => timings.promptTokens),
      cachedTokens: sum((timings) => timings.cachedTokens),
      promptMs: longest((timings) => timings.promptMs),
      predictedTokens: sum((timings) => timings.predictedTokens),
      predictedMs: longest((timings) => timings.predictedMs),
    });
  }

  /** Member `kv` over all choices. The first token of an answer comes from the prefill. */
  kv() {
    const ended = this.#finished.toSorted((one, other) => one.index - other.index);
    return kvMember(
      combineReports(
        ended.flatMap(({ kv, timings }) =>
          kv === null ? [] : [{ report: kv, steps: Math.max(0, timings.predictedTokens - 1) }]
        ),
      ),
    );
  }
}

/** Bytes of a token; none for an id with which the model pads its vocabulary. */
export function tokenBytes(tokenizer: Tokenizer, id: number): Uint8Array {
  return id < tokenizer.vocabSize ? tokenizer.tokenBytes(id) : new Uint8Array(0);
}

/**
 * A token as text. A part of a character has no text: it is written as its bytes (`\xf0\x9f`), so
 * that different tokens stay different and no replacement character appears.
 */
export function tokenText(tokenizer: Tokenizer | undefined, id: number): string {
  if (tokenizer === undefined || id >= tokenizer.vocabSize) return `token_id:${id}`;
  const bytes = tokenBytes(tokenizer, id);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}

/** JSON has no infinity; -9999 is what OpenAI sends for "practically impossible". */
export function finiteLogprob(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : -9999;
}
