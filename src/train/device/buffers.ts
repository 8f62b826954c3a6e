/** What a trainer has on the device beside its windows. @module */
import { IMPORTANCE_DIM } from "../../butler/predictor/shape.ts";
import { CLIP_GROUPS } from "../../gpu/ops/train.ts";
import type { ProducerSizes } from "../objective.ts";
import { placesOf } from "./values.ts";

/** Buffers by name. */
export type TrainBuffers = ReturnType<typeof makeBuffers<GPUBuffer>>;

/**
 * Makes them, all of f32.
 *
 * @param f32 Makes a buffer of so many numbers.
 */
export function makeBuffers<T>(sizes: ProducerSizes, f32: (label: string, count: number) => T) {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const { count } = placesOf(sizes);
  const lists = served * numHeads;
  const width = lists * IMPORTANCE_DIM;
  return {
    values: f32("trained values", count),
    gradients: f32("gradients", count),
    moments: f32("moments", count * 2),
    clipped: f32("clipped", CLIP_GROUPS + 1),
    affine: f32("affine", rows * hiddenSize),
    before: f32("before", rows * inner),
    features: f32("features", rows * inner),
    queries: f32("queries", rows * width),
    keys: f32("keys", served * numKvHeads * tokens * IMPORTANCE_DIM),
    scores: f32("scores", lists * rows * tokens),
    loss: f32("loss", served * numKvHeads * rows),
    querySlopes: f32("query slopes", rows * width),
    keySlopes: f32("key slopes", served * numKvHeads * tokens * IMPORTANCE_DIM),
    featureSlopes: f32("feature slopes", rows * inner),
    beforeSlopes: f32("before slopes", rows * inner),
    affineSlopes: f32("affine slopes", rows * hiddenSize),
    realQueries: f32("real queries", lists * rows * headDim),
  };
}
