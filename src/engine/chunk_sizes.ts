/** How many tokens of a prompt go through the layers together. @module */
import type { SchedulerOptions } from "./scheduler.ts";
import type { EngineInfo } from "./types.ts";

/**
 * How an engine schedules unless told otherwise: while streams run, a prefill chunk is a quarter of
 * the largest one, and every second step decodes.
 */
export function schedulingOf(info: EngineInfo): SchedulerOptions {
  const { maxSequences, prefillChunk } = info;
  return {
    maxSequences,
    prefillChunk,
    sharedPrefillChunk: sharedChunkOf(prefillChunk),
    decodesPerPrefill: 1,
  };
}

/** Tokens of a chunk while streams run. */
export function sharedChunkOf(prefillChunk: number): number {
  return Math.min(prefillChunk, Math.ceil(prefillChunk / 4 / 32) * 32);
}

/**
 * The size of the next prefill chunk after one of `count` tokens took `ms`: half when it took much
 * longer than it should, double when it took less than half. Chunks that were cut short by the end
 * of a prompt or by running streams say nothing about larger ones.
 */
export function nextChunk(
  chunk: number,
  count: number,
  ms: number,
  target: { readonly ms: number; readonly least: number; readonly most: number },
): number {
  if (ms > target.ms * 1.25 && count > chunk / 2) {
    return Math.min(chunk, Math.max(target.least, Math.floor(chunk / 2 / 32) * 32));
  }
  if (ms < target.ms / 2 && count === chunk) {
    return Math.max(chunk, Math.min(target.most, chunk * 2));
  }
  return chunk;
}
