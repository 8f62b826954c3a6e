/** A predictor of random numbers, for tests. @module */
import { emptyPredictor, type Predictor } from "../../src/butler/predictor/predictor.ts";
import type { PredictorShape } from "../../src/butler/predictor/shape.ts";
import type { Random } from "../gpu/_rig.ts";

/** Values of the size that trained ones have: queries and keys about one long. */
export function randomPredictor(shape: PredictorShape, random: Random): Predictor {
  const { hiddenSize, headDim } = shape.model;
  const predictor = emptyPredictor(shape);
  const fill = (values: Float32Array, scale: number, mean = 0) => {
    random.floats(values.length, scale).forEach((value, i) => values[i] = mean + value);
  };
  for (const { normWeight, normBias, up, down } of predictor.producers) {
    fill(normWeight, 0.1, 1);
    fill(normBias, 0.1);
    fill(up, 2 / Math.sqrt(hiddenSize));
    fill(down, 2 / Math.sqrt(shape.inner));
  }
  fill(predictor.keys, 2 / Math.sqrt(headDim));
  // A third of the pairs stand still, the others follow one of the fastest pairs of the model.
  predictor.turns.forEach((_, i) => predictor.turns[i] = i % 3 - 1);
  return predictor;
}
