/** Runs spoiled inputs one by one and holds each to the same limits. @module */
import { memoryInUse } from "std-testing";

/** Longest time that one input may take. */
export const DEADLINE_MS = 1000;
/** Most memory that one may cost beyond its own size. */
export const MAX_EXTRA_BYTES = 64 << 20;

/** How many were taken and how many refused. */
export interface Tally {
  readonly taken: number;
  readonly refused: number;
}

/** One input and what to do with it. */
export interface FuzzCase {
  readonly note: string;
  readonly bytes: number;
  /** Whether it was taken; false if it was refused by a named error. Throws anything else. */
  run(): Promise<boolean> | boolean;
}

/**
 * Runs cases.
 *
 * @param again How to run one case again, for the message of a failure.
 * @throws {Error} On the first one that throws what has no name, takes too long or too much.
 */
export async function runCases(
  cases: Iterable<FuzzCase>,
  again: (index: number) => string,
): Promise<Tally> {
  let taken = 0;
  let refused = 0;
  let index = 0;
  for (const { note, bytes, run } of cases) {
    const fail = (what: string, cause?: unknown): never => {
      throw new Error(`${what}: ${note}; again with ${again(index)}`, { cause });
    };
    const before = memoryInUse();
    const start = performance.now();
    try {
      if (await run()) taken++;
      else refused++;
    } catch (cause) {
      fail(`not a named error (${cause})`, cause);
    }
    const elapsed = performance.now() - start;
    if (elapsed > DEADLINE_MS) fail(`took ${Math.round(elapsed)} ms`);
    const extra = memoryInUse() - before - bytes;
    if (extra > MAX_EXTRA_BYTES) fail(`memory grew by ${extra} bytes`);
    index++;
  }
  return { taken, refused };
}
