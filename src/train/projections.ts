/**
 * What the 16 importance dimensions of a KV head stand for, in closed form.
 *
 * The score of a key is a sum over dimensions of the head. A part of it can be kept in two ways. Pairs
 * of dimensions that RoPE rotates: their query is told before RoPE and turned afterwards. Or
 * directions of the rotated query, which have to be told as they are. Both count for as much of the
 * variance of the scores as can be told from hidden states by a linear map: a fast pair hardly as a
 * direction, since the position is not known, a slow one nearly, and directions can gather many slow
 * pairs. Directions are the singular vectors of the product of told queries and keys (the best product
 * of so many dimensions there is); how many pairs turn is what keeps most.
 *
 * @module
 */
import { CholeskyDecomposition, EigenvalueDecomposition, Matrix } from "ml-matrix";
import { IMPORTANCE_DIM } from "../butler/predictor/shape.ts";
import { IMPORTANCE_PAIRS, ropePair, STILL } from "../butler/predictor/turns.ts";
import type { RopeConfig } from "../model/types.ts";
import { Moments } from "./moments.ts";
import { normalized, type ObjectiveWindow, type ProducerSizes } from "./objective.ts";

/** Every so many keys of a window are looked at. */
const KEY_STEP = 4;
/** Rows that the told part of queries is worked out from. */
const MOST_ROWS = 4096;
/** Ridge, as a part of the mean of the diagonal. */
const RIDGE = 1e-3;
/** Directions below this part of the largest are noise. */
const LEAST = 1e-5;

/** What the model's RoPE says. */
export type RopePairs = Pick<RopeConfig, "dimensions" | "pairing" | "inverseFrequencies">;

/** Where queries and keys of a KV head are projected to. */
export interface Projections {
  /** (8) as `Turning` has them */
  readonly turns: readonly number[];
  /** (head size, 16): of turning pairs for queries before RoPE, of the others after it. */
  readonly query: Matrix;
  /** (head size, 16), after RoPE */
  readonly key: Matrix;
  /** (16) size of a dimension's part of the scores. */
  readonly weights: readonly number[];
}

/**
 * Projections of the layers of a producer.
 *
 * @param sinks First rows, which are never chosen.
 * @returns (layers served, KV heads) in one list.
 */
export function projectionsOf(
  sizes: ProducerSizes,
  rope: RopePairs,
  sinks: number,
  windows: () => Iterable<ObjectiveWindow>,
): Projections[] {
  const { headDim } = sizes;
  const { keys, count } = keyMoments(sizes, sinks, windows);
  const { still, unturned } = toldQueries(sizes, rope, windows, count);
  return keys.map((key, list) => chooseFor(headDim, rope, key, still[list]!, unturned[list]!));
}

/** (layers served, KV heads): how keys of a window differ from their mean; and how many windows. */
function keyMoments(
  { served, numKvHeads, headDim, tokens }: ProducerSizes,
  sinks: number,
  windows: () => Iterable<ObjectiveWindow>,
): { readonly keys: Matrix[]; readonly count: number } {
  const moments = Array.from({ length: served * numKvHeads }, () => new Moments(headDim));
  const picked: number[] = [];
  for (let t = Math.min(sinks, tokens - 1); t < tokens; t += KEY_STEP) picked.push(t);
  const centred = new Float64Array(headDim);
  let count = 0;
  for (const window of windows()) {
    count++;
    moments.forEach((of, list) => {
      const mean = new Float64Array(headDim);
      for (const t of picked) {
        for (let d = 0; d < headDim; d++) {
          mean[d]! += window.keys[(list * tokens + t) * headDim + d]! / picked.length;
        }
      }
      for (const t of picked) {
        for (let d = 0; d < headDim; d++) {
          centred[d] = window.keys[(list * tokens + t) * headDim + d]! - mean[d]!;
        }
        of.add(centred, 0);
      }
    });
  }
  return { keys: moments.map((of) => of.mean()), count };
}

/**
 * (layers served, KV heads): second moments, over rows and the heads of the group, of what a linear map
 * tells of the queries after RoPE and before it.
 */
function toldQueries(
  { hiddenSize, served, numHeads, numKvHeads, headDim, rows }: ProducerSizes,
  rope: RopePairs,
  windows: () => Iterable<ObjectiveWindow>,
  count: number,
): { readonly still: Matrix[]; readonly unturned: Matrix[] } {
  const step = Math.max(1, Math.ceil(count * rows / MOST_ROWS));
  const heads = served * numHeads;
  const width = heads * headDim * 2;
  const states = new Moments(hiddenSize);
  const right = new Float64Array(hiddenSize * width);
  const both = new Float64Array(width);
  let seen = 0;
  for (const window of windows()) {
    const x = normalized(window.hidden, hiddenSize);
    for (let row = 0; row < rows; row++) {
      if (seen++ % step !== 0) continue;
      states.add(x, row * hiddenSize);
      const angles = anglesAt(rope, window.positions[row]!);
      for (let head = 0; head < heads; head++) {
        const at = (head * rows + row) * headDim;
        const query = unturnedQuery(window.queries, at, headDim, rope, angles);
        for (let d = 0; d < headDim; d++) {
          both[head * headDim + d] = window.queries[at + d]!;
          both[(heads + head) * headDim + d] = query[d]!;
        }
      }
      for (let i = 0; i < hiddenSize; i++) {
        const value = x[row * hiddenSize + i]!;
        for (let j = 0; j < width; j++) right[i * width + j]! += value * both[j]!;
      }
    }
  }
  const left = states.mean();
  const ridge = RIDGE * left.trace() / hiddenSize + 1e-12;
  for (let i = 0; i < hiddenSize; i++) left.set(i, i, left.get(i, i) + ridge);
  whiten(new CholeskyDecomposition(left).lowerTriangularMatrix, right, width);
  const group = numHeads / numKvHeads;
  const told = (first: number, list: number) => {
    const moments = new Moments(headDim);
    for (let g = 0; g < group; g++) {
      const at = first + (list * group + g) * headDim;
      for (let i = 0; i < hiddenSize; i++) moments.add(right, i * width + at);
    }
    return moments.mean().mul(hiddenSize / states.count ** 2);
  };
  const lists = Array.from({ length: served * numKvHeads }, (_, list) => list);
  return {
    still: lists.map((list) => told(0, list)),
    unturned: lists.map((list) => told(heads * headDim, list)),
  };
}

/**
 * Solves lower . x = b in place. With the products of states and queries as b, and their states' moments
 * as lower . lower^T, the second moments of x over its rows are those of the least squares of queries.
 *
 * @param b (size of `lower`, width)
 */
function whiten(lower: Matrix, b: Float64Array, width: number): void {
  for (let i = 0; i < lower.rows; i++) {
    for (let k = 0; k < i; k++) {
      const factor = lower.get(i, k);
      for (let j = 0; j < width; j++) b[i * width + j]! -= factor * b[k * width + j]!;
    }
    const factor = 1 / lower.get(i, i);
    for (let j = 0; j < width; j++) b[i * width + j]! *= factor;
  }
}

/** Cosine and sine of each pair of RoPE at a position. */
export interface Angles {
  readonly cos: Float64Array;
  readonly sin: Float64Array;
}

/** Angles of a position. */
export function anglesAt({ inverseFrequencies }: RopePairs, position: number): Angles {
  return {
    cos: Float64Array.from(inverseFrequencies, (frequency) => Math.cos(position * frequency)),
    sin: Float64Array.from(inverseFrequencies, (frequency) => Math.sin(position * frequency)),
  };
}

/** A query before RoPE. (head size) */
export function unturnedQuery(
  queries: ArrayLike<number>,
  at: number,
  headDim: number,
  rope: RopePairs,
  { cos, sin }: Angles,
): Float64Array {
  const query = Float64Array.from({ length: headDim }, (_, d) => queries[at + d]!);
  for (let pair = 0; pair < cos.length; pair++) {
    const [a, b] = ropePair(rope, pair);
    const x = query[a]!;
    const y = query[b]!;
    query[a] = x * cos[pair]! + y * sin[pair]!;
    query[b] = y * cos[pair]! - x * sin[pair]!;
  }
  return query;
}

/** The best number of turning pairs, and what goes with it. */
function chooseFor(
  headDim: number,
  rope: RopePairs,
  key: Matrix,
  still: Matrix,
  unturned: Matrix,
): Projections {
  const trace = (of: Matrix, dims: readonly number[]) =>
    dims.reduce((sum, d) => sum + of.get(d, d), 0);
  const pairs = rope.inverseFrequencies.map((_, pair) => {
    const dims = ropePair(rope, pair);
    // Turned by every angle a pair's query is as large in each direction.
    const kept = trace(unturned, dims) * trace(key, dims) / 2;
    const asDirections = dims.reduce(
      (sum, a) => sum + dims.reduce((part, b) => part + still.get(a, b) * key.get(a, b), 0),
      0,
    );
    return { pair, dims, kept, gain: kept - asDirections };
  }).sort((a, b) => b.gain - a.gain || a.pair - b.pair);
  let best: { readonly kept: number; readonly make: () => Projections } | null = null;
  for (let count = 0; count <= Math.min(IMPORTANCE_PAIRS, pairs.length); count++) {
    const turning = pairs.slice(0, count);
    const taken = new Set(turning.flatMap(({ dims }) => dims));
    const rest = Array.from({ length: headDim }, (_, d) => d).filter((d) => !taken.has(d));
    const directions = directionsOf(key, still, rest, IMPORTANCE_DIM - 2 * count);
    const kept = turning.reduce((sum, each) => sum + each.kept, 0) +
      directions.sizes.reduce((sum, size) => sum + size ** 2, 0);
    if (best !== null && kept <= best.kept) continue;
    best = { kept, make: () => assemble(headDim, turning, rest, directions, key, unturned) };
  }
  return best!.make();
}

interface Directions {
  /** (dimensions, directions) */
  readonly query: Matrix;
  readonly key: Matrix;
  /** (directions) singular values */
  readonly sizes: readonly number[];
}

/** The best directions of some dimensions of a head. */
function directionsOf(
  key: Matrix,
  still: Matrix,
  dims: readonly number[],
  most: number,
): Directions {
  const count = Math.min(most, dims.length);
  if (count === 0) {
    return { query: Matrix.zeros(dims.length, 0), key: Matrix.zeros(dims.length, 0), sizes: [] };
  }
  const k = rootOf(key.selection([...dims], [...dims]));
  // Its eigenvectors are the right singular vectors of the product of both roots.
  const squared = k.root.mmul(still.selection([...dims], [...dims])).mmul(k.root);
  const found = new EigenvalueDecomposition(squared, { assumeSymmetric: true });
  const order = found.realEigenvalues.map((value, index) => ({ value, index }))
    .sort((a, b) => b.value - a.value).slice(0, count)
    .filter(({ value }) => value > LEAST ** 2 * Math.max(...found.realEigenvalues));
  const sizes = order.map(({ value }) => Math.sqrt(value));
  const vectors = found.eigenvectorMatrix.subMatrixColumn(order.map(({ index }) => index));
  const scaled = (factor: (size: number) => number) => vectors.mmul(Matrix.diag(sizes.map(factor)));
  // Whatever the query: this is the least squares of its scores in those directions.
  return {
    query: k.root.mmul(scaled((size) => 1 / Math.sqrt(size))),
    key: k.inverse.mmul(scaled(Math.sqrt)),
    sizes,
  };
}

function assemble(
  headDim: number,
  turning: readonly { readonly pair: number; readonly dims: readonly [number, number] }[],
  rest: readonly number[],
  directions: Directions,
  keyMoments: Matrix,
  unturned: Matrix,
): Projections {
  // Scores are divided by 4 where the model's are divided by the root of the head size.
  const scale = Math.sqrt(IMPORTANCE_DIM / headDim);
  const query = Matrix.zeros(headDim, IMPORTANCE_DIM);
  const key = Matrix.zeros(headDim, IMPORTANCE_DIM);
  const weights = new Array<number>(IMPORTANCE_DIM).fill(0);
  turning.forEach(({ dims }, index) => {
    const size = (of: Matrix) =>
      Math.max((of.get(dims[0], dims[0]) + of.get(dims[1], dims[1])) / 2, 1e-12);
    // Queries and keys of the same size.
    const balance = (size(unturned) / size(keyMoments)) ** 0.25;
    dims.forEach((d, part) => {
      query.set(d, 2 * index + part, scale / balance);
      key.set(d, 2 * index + part, balance);
      weights[2 * index + part] = (size(unturned) * size(keyMoments)) ** 0.25;
    });
  });
  directions.sizes.forEach((size, index) => {
    const j = 2 * turning.length + index;
    weights[j] = Math.sqrt(size);
    rest.forEach((d, i) => {
      query.set(d, j, directions.query.get(i, index) * scale);
      key.set(d, j, directions.key.get(i, index));
    });
  });
  return {
    turns: Array.from(
      { length: IMPORTANCE_PAIRS },
      (_, index) => turning[index]?.pair ?? STILL,
    ),
    query,
    key,
    weights,
  };
}

/** Symmetric root of a matrix of moments, and its inverse. */
function rootOf(moments: Matrix): { readonly root: Matrix; readonly inverse: Matrix } {
  const found = new EigenvalueDecomposition(moments, { assumeSymmetric: true });
  const vectors = found.eigenvectorMatrix;
  const most = Math.max(...found.realEigenvalues, 1e-12);
  const values = found.realEigenvalues.map((value) => Math.sqrt(Math.max(value, most * 1e-7)));
  const scaled = (factor: (value: number) => number) =>
    vectors.mmul(Matrix.diag(values.map(factor))).mmul(vectors.transpose());
  return { root: scaled((value) => value), inverse: scaled((value) => 1 / value) };
}
