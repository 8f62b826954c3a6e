/** Puts together what {@linkcode ModelSource} promises from what a reader found. @module */

import type { ModelSource } from "./types.ts";

/** Everything but the sums. */
export type ModelParts = Omit<ModelSource, "numParameters" | "sizeBytes">;

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
