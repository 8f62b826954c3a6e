/** Runs spoiled inputs one by one and holds each to the same limits. @module */
import { memoryInUse } from "std-testing";
import { BufferCount } from "./_buffers.ts";

/** Longest time that one input may take. */
export const DEADLINE_MS = 1000;
/** Most memory that one may cost beyond its own size. */
export const MAX_EXTRA_BYTES = 64 << 20;

/** How many were taken and how many refused. */
export interface Tally {
  readonly taken: number;
  readonly refused: number;
  /** Of the case that took longest. */
  readonly slowestMs: number;
  /** Bytes beyond its own size of the case that asked for most. */
  readonly largestBytes: number;
}

/** One input and what to do with it. */
export interface FuzzCase {
  readonly note: string;
  readonly bytes: number;
  /** Whether it was taken; false if it was refused by a named error. Throws anything else. */
  run(): Promise<boolean> | boolean;
}

/**
 * Runs cases. Memory is looked at in three ways: what this isolate holds more than before, all
 * buffers that it asked for, and what `processBytes` says.
 *
 * @param again How to run one case again, for the message of a failure.
 * @param processBytes Memory of the process, for cases that other isolates work on; null where
 * others run in the process.
 * @throws {Error} On the first one that throws what has no name, takes too long or too much.
 */
export async function runCases(
  cases: Iterable<FuzzCase>,
  again: (index: number) => string,
  processBytes: (() => number) | null = null,
): Promise<Tally> {
  let taken = 0;
  let refused = 0;
  let index = 0;
  let slowestMs = 0;
  let largestBytes = 0;
  const watch = new Worker(import.meta.resolve("./_watch_worker.ts"), { type: "module" });
  using buffers = new BufferCount();
  try {
    for (const { note, bytes, run } of cases) {
      const fail = (what: string, cause?: unknown): never => {
        throw new Error(`${what}: ${note}; again with ${again(index)}`, { cause });
      };
      watch.postMessage(`${note}; again with ${again(index)}`);
      const held = memoryInUse();
      const resident = processBytes?.() ?? 0;
      buffers.bytes = 0;
      const start = performance.now();
      try {
        if (await run()) taken++;
        else refused++;
      } catch (cause) {
        fail(`not a named error (${cause})`, cause);
      }
      const first = performance.now() - start;
      const grown = [
        memoryInUse() - held,
        buffers.bytes,
        (processBytes?.() ?? 0) - resident,
      ];
      const extra = Math.max(...grown) - bytes;
      if (extra > MAX_EXTRA_BYTES) fail(`took ${grown.join(", ")} bytes of memory`);
      let elapsed = first;
      if (first > DEADLINE_MS) {
        // Other programs take their part of the time: what is slow by itself is slow again.
        const begun = performance.now();
        await run();
        elapsed = Math.min(first, performance.now() - begun);
        if (elapsed > DEADLINE_MS) {
          fail(`took ${Math.round(first)} ms, then ${Math.round(elapsed)}`);
        }
      }
      slowestMs = Math.max(slowestMs, elapsed);
      largestBytes = Math.max(largestBytes, extra);
      index++;
    }
  } finally {
    watch.terminate();
  }
  return { taken, refused, slowestMs, largestBytes };
}
