/** A small calibration for tests. @module */
import {
  type CalibratedModel,
  type Calibration,
  PROJECTED_DIM,
} from "../../src/butler/calibration/file.ts";
import { seededRandom } from "../_model_files.ts";

/** Sizes that differ from each other, so that mixed up axes show. */
export const MODEL: CalibratedModel = {
  fingerprint: "0123456789abcdef".repeat(4),
  numLayers: 3,
  numKvHeads: 2,
  headDim: 24,
};

/** A calibration of {@linkcode MODEL} with made-up numbers. */
export function madeUp(): Calibration {
  const { numLayers, numKvHeads, headDim } = MODEL;
  const random = seededRandom(3);
  return {
    model: MODEL,
    origin: { tokens: 8192, context: 2048, program: "0.1.0" },
    projection: Float32Array.from(
      { length: numLayers * numKvHeads * headDim * PROJECTED_DIM },
      () => 2 * random() - 1,
    ),
  };
}
