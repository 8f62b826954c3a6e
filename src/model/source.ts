/** Puts together what {@linkcode ModelSource} promises from what a reader found. @module */

import type { ModelSource } from "./types.ts";

/** Everything but the sums. */
export type ModelParts = Omit<ModelSource, "numParameters" | "sizeBytes">;

/** Those of the values that are token ids, in lists too. */
export function validIds(values: readonly unknown[], vocabSize: number): ReadonlySet<number> {
  return new Set(
    values.flat().filter((id): id is number =>
      typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize
    ),
  );
}

/** Adds the sums over all tensors. */
export function modelSource(parts: ModelParts): ModelSource {
  let numParameters = 0;
  let sizeBytes = 0;
  for (const { rows, cols, byteLength } of parts.tensors.values()) {
    numParameters += rows * cols;
    sizeBytes += byteLength;
  }
  return { ...parts, numParameters, sizeBytes };
}
