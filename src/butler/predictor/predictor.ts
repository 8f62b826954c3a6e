/** A predictor's weights, and what it computes, in plain TypeScript. @module */
import {
  IMPORTANCE_DIM,
  parameterCount,
  type PredictorShape,
  producersOf,
  queryRows,
} from "./shape.ts";
import { IMPORTANCE_PAIRS, STILL } from "./turns.ts";

/** What is added to the variance in a producer's LayerNorm. */
export const PRODUCER_NORM_EPS = 1e-5;

/** The small network in front of some layers. */
export interface Producer {
  /** (hidden size) */
  readonly normWeight: Float32Array<ArrayBuffer>;
  /** (hidden size) */
  readonly normBias: Float32Array<ArrayBuffer>;
  /** (inner, hidden size) */
  readonly up: Float32Array<ArrayBuffer>;
  /** (layers served, query heads, 16; inner) */
  readonly down: Float32Array<ArrayBuffer>;
}

/** A predictor. */
export interface Predictor {
  readonly shape: PredictorShape;
  /** As `producersOf` orders them. */
  readonly producers: readonly Producer[];
  /**
   * (layers, KV heads, head size, 16): keys after RoPE times this are importance keys. Layer 0 has
   * no producer, its values are not used.
   */
  readonly keys: Float32Array<ArrayBuffer>;
  /** (layers, KV heads, 8): the pair of RoPE that a pair of a query follows, or `STILL`. */
  readonly turns: Int32Array<ArrayBuffer>;
}

/** A predictor of zeros, whose queries stand still. */
export function emptyPredictor(shape: PredictorShape): Predictor {
  const { numLayers, hiddenSize, numKvHeads, headDim } = shape.model;
  return {
    shape,
    producers: producersOf(shape).map((place) => ({
      normWeight: new Float32Array(hiddenSize),
      normBias: new Float32Array(hiddenSize),
      up: new Float32Array(shape.inner * hiddenSize),
      down: new Float32Array(queryRows(shape, place) * shape.inner),
    })),
    keys: new Float32Array(numLayers * numKvHeads * headDim * IMPORTANCE_DIM),
    turns: new Int32Array(numLayers * numKvHeads * IMPORTANCE_PAIRS).fill(STILL),
  };
}

/** Parameters of a predictor as a share of those of its model. */
export function parameterShare(shape: PredictorShape, modelParameters: number): number {
  return parameterCount(shape) / modelParameters;
}

/**
 * Importance queries before they are turned: down . silu(up . LayerNorm(x)).
 *
 * @param x (hidden size) the residual stream that enters the producer's layer, before that layer's own
 *   norm.
 * @returns (layers served, query heads, 16)
 */
export function importanceQueries(
  { normWeight, normBias, up, down }: Producer,
  x: ArrayLike<number>,
): Float64Array<ArrayBuffer> {
  const size = normWeight.length;
  const inner = up.length / size;
  let mean = 0;
  for (let i = 0; i < size; i++) mean += x[i]! / size;
  let variance = 0;
  for (let i = 0; i < size; i++) variance += (x[i]! - mean) ** 2 / size;
  const scale = 1 / Math.sqrt(variance + PRODUCER_NORM_EPS);
  const normed = Float64Array.from(
    { length: size },
    (_, i) => (x[i]! - mean) * scale * normWeight[i]! + normBias[i]!,
  );
  const hidden = matVec(up, normed).map((value) => value / (1 + Math.exp(-value)));
  return matVec(down, hidden.subarray(0, inner));
}

/**
 * An importance key.
 *
 * @param matrix (head size, 16)
 * @param key (head size) after RoPE
 * @returns (16)
 */
export function importanceKey(
  matrix: ArrayLike<number>,
  key: ArrayLike<number>,
): Float64Array<ArrayBuffer> {
  const sum = new Float64Array(IMPORTANCE_DIM);
  for (let d = 0; d < key.length; d++) {
    for (let j = 0; j < IMPORTANCE_DIM; j++) {
      sum[j]! += key[d]! * matrix[d * IMPORTANCE_DIM + j]!;
    }
  }
  return sum;
}

/** Importance of a key for a group of query heads: the largest of q . k / 4. */
export function importanceScore(
  queries: readonly ArrayLike<number>[],
  key: ArrayLike<number>,
): number {
  return queries.reduce((most, query) => {
    let sum = 0;
    for (let j = 0; j < IMPORTANCE_DIM; j++) sum += query[j]! * key[j]!;
    return Math.max(most, sum / Math.sqrt(IMPORTANCE_DIM));
  }, -Infinity);
}

function matVec(matrix: Float32Array, x: Float64Array): Float64Array<ArrayBuffer> {
  return Float64Array.from({ length: matrix.length / x.length }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += matrix[row * x.length + i]! * x[i]!;
    return sum;
  });
}
