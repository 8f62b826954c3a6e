/** What every refusal of a model has in common. @module */

import { assert, memoryInUse } from "std-testing";
import { ModelFileError, type ModelFileErrorCode } from "../../src/model/errors.ts";
import { openModel } from "../../src/model/open.ts";
import type { ModelSource } from "../../src/model/types.ts";

/** Longest time that a file may keep the process busy. */
export const DEADLINE_MS = 1000;
/** Most memory that looking at a bad file may cost. */
export const MAX_EXTRA_BYTES = 64 << 20;

/** Opens a model, looks at it, closes it. */
export async function withModel<T>(
  path: string,
  use: (model: ModelSource) => Promise<T> | T,
): Promise<T> {
  const model = await openModel(path);
  try {
    return await use(model);
  } finally {
    model.close();
  }
}

/** Opening must fail in time, with this code and a message that has all of these words. */
export async function assertRefused(
  path: string,
  code: ModelFileErrorCode,
  ...words: string[]
): Promise<void> {
  const start = performance.now();
  const error = await refusalOf(path);
  const elapsed = performance.now() - start;
  assert.ok(error, `${path} was opened, not refused as ${code}`);
  assert.equal(error.code, code, error.message);
  for (const word of words) {
    assert.ok(error.message.includes(word), `no ${JSON.stringify(word)} in: ${error.message}`);
  }
  assert.ok(elapsed < DEADLINE_MS, `refused after ${elapsed} ms`);
}

/**
 * Opens, samples and closes a model; the error if it was refused. Anything but a
 * {@linkcode ModelFileError} is passed on, and fails the test.
 */
export async function refusalOf(path: string): Promise<ModelFileError | undefined> {
  try {
    await withModel(path, (model) => model.fingerprint());
    return undefined;
  } catch (error) {
    if (error instanceof ModelFileError) return error;
    throw error;
  }
}

/** Checks time and memory over many cases; `note` tells what a failing case was. */
export class Bounds {
  readonly #before = memoryInUse();
  opened = 0;
  refused = 0;

  async run(path: string, note: () => string): Promise<void> {
    const before = memoryInUse();
    const start = performance.now();
    let refusal: ModelFileError | undefined;
    try {
      refusal = await refusalOf(path);
    } catch (error) {
      throw new Error(`${note()}: not a named error`, { cause: error });
    }
    const elapsed = performance.now() - start;
    assert.ok(elapsed < DEADLINE_MS, `${note()}: took ${elapsed} ms`);
    const extra = memoryInUse() - before;
    assert.ok(extra < MAX_EXTRA_BYTES, `${note()}: memory grew by ${extra} bytes`);
    if (refusal) this.refused++;
    else this.opened++;
  }

  /** All cases together must not have cost more than one may. */
  assertNoLeak(): void {
    const extra = memoryInUse() - this.#before;
    assert.ok(extra < MAX_EXTRA_BYTES, `memory grew by ${extra} bytes over all cases`);
  }
}
