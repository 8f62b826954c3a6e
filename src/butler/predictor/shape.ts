/**
 * The shape of a predictor (TokenButler version 2, arXiv 2503.07518): which layers have a producer of
 * importance queries, which layers it serves, and how many parameters that takes.
 *
 * @module
 */

/** Dimensions of importance queries and keys. */
export const IMPORTANCE_DIM = 16;

/** Parameters of a predictor are at most this share of the model's unless told otherwise. */
export const MAX_PARAMETER_SHARE = 0.012;

/** Sizes of the model that a predictor is for. */
export interface PredictedModel {
  /** As `ModelSource.fingerprint` gives it. */
  readonly fingerprint: string;
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Sizes of a predictor. */
export interface PredictorShape {
  readonly model: PredictedModel;
  /** Layers from one producer to the next, and the most layers that one serves. */
  readonly stride: number;
  /** Width between the two products of a producer. */
  readonly inner: number;
}

/** Where the queries of some layers come from. */
export interface ProducerPlace {
  /** Index of the producer. */
  readonly index: number;
  /** It sees the hidden state that enters this layer. */
  readonly layer: number;
  /** It serves layers first .. first + count - 1. */
  readonly first: number;
  readonly count: number;
}

/** All producers; a last one that would serve no layer is left out. */
export function producersOf({ model, stride }: PredictorShape): ProducerPlace[] {
  const places: ProducerPlace[] = [];
  for (let layer = 0; layer + 1 < model.numLayers; layer += stride) {
    const count = Math.min(stride, model.numLayers - 1 - layer);
    places.push({ index: places.length, layer, first: layer + 1, count });
  }
  return places;
}

/** Index of the producer that serves a layer; null for layer 0, which has none. */
export function producerOf({ stride }: PredictorShape, layer: number): number | null {
  return layer === 0 ? null : Math.floor((layer - 1) / stride);
}

/** Layers that a producer at `layer` serves; none where there is no producer. */
export function servedLayers(shape: PredictorShape, layer: number): number[] {
  const place = producersOf(shape).find((one) => one.layer === layer);
  return place === undefined
    ? []
    : Array.from({ length: place.count }, (_, index) => place.first + index);
}

/** Rows of a producer's last matrix: (layers it serves, query heads, {@linkcode IMPORTANCE_DIM}). */
export function queryRows({ model }: PredictorShape, { count }: ProducerPlace): number {
  return count * model.numHeads * IMPORTANCE_DIM;
}

/** Parameters in all. */
export function parameterCount(shape: PredictorShape): number {
  const { numLayers, hiddenSize, numKvHeads, headDim } = shape.model;
  const keys = numLayers * numKvHeads * headDim * IMPORTANCE_DIM;
  return producersOf(shape).reduce(
    (sum, place) => sum + (2 + shape.inner) * hiddenSize + queryRows(shape, place) * shape.inner,
    keys,
  );
}
