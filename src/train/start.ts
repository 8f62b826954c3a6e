/**
 * A producer before training, in closed form. Key projections are the right singular vectors of the
 * query-key product, which is the best product of 16 dimensions there is; what queries should be
 * follows from them, and the producer is fitted to that by least squares. Its first matrix has pairs of
 * opposite rows: silu(u) - silu(-u) = u, so that it can do at least what a linear map can.
 *
 * @module
 */
import { CholeskyDecomposition, EigenvalueDecomposition, Matrix, SVD } from "ml-matrix";
import { IMPORTANCE_DIM } from "../butler/predictor/shape.ts";
import {
  normalized,
  type ObjectiveWindow,
  type ProducerSizes,
  type ProducerValues,
} from "./objective.ts";

/** Ridge, as a part of the mean of the diagonal. */
const RIDGE = 1e-3;
/** Every so many keys of a window are looked at. */
const KEY_STEP = 4;

/** Sums over windows that the start is worked out from. */
class Moments {
  readonly sums: Float64Array<ArrayBuffer>;

  constructor(readonly size: number) {
    this.sums = new Float64Array(size * size);
  }

  add(values: ArrayLike<number>, at: number): void {
    const { size, sums } = this;
    for (let i = 0; i < size; i++) {
      const value = values[at + i]!;
      for (let j = 0; j <= i; j++) sums[i * size + j]! += value * values[at + j]!;
    }
  }

  matrix(): Matrix {
    const { size, sums } = this;
    return new Matrix(Array.from(
      { length: size },
      (_, i) =>
        Array.from({ length: size }, (_, j) => i >= j ? sums[i * size + j]! : sums[j * size + i]!),
    ));
  }
}

/** Where queries and keys of a KV head are projected to. */
interface Projections {
  /** (head size, 16) */
  readonly query: Matrix;
  readonly key: Matrix;
  /** (16) size of a dimension's part of the scores. */
  readonly weights: readonly number[];
}

/**
 * Values to begin with.
 *
 * @param windows Gives the windows again each time it is called.
 */
export function startingValues(
  sizes: ProducerSizes,
  windows: () => Iterable<ObjectiveWindow>,
): ProducerValues<Float32Array<ArrayBuffer>> {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim } = sizes;
  const projections = projectionsOf(sizes, windows);
  const keys = new Float32Array(served * numKvHeads * headDim * IMPORTANCE_DIM);
  projections.forEach(({ key }, list) => {
    keys.set(key.to1DArray(), list * headDim * IMPORTANCE_DIM);
  });
  const width = served * numHeads * IMPORTANCE_DIM;
  const states: Float32Array[] = [];
  const targets: Float32Array[] = [];
  const weights = new Float64Array(width);
  for (const window of windows()) {
    states.push(Float32Array.from(normalized(window.hidden, hiddenSize)));
    targets.push(targetsOf(sizes, window, projections, weights));
  }
  const up = firstMatrix(sizes, states, targets, weights);
  const features = states.map((rows) => featuresOf(rows, up, hiddenSize, inner));
  const fitted = ridge(features, targets, inner, width);
  const down = new Float32Array(width * inner);
  for (let i = 0; i < inner; i++) {
    for (let j = 0; j < width; j++) down[j * inner + i] = fitted.get(i, j);
  }
  return {
    up,
    down,
    keys,
    gain: new Float32Array(hiddenSize).fill(1),
    bias: new Float32Array(hiddenSize),
  };
}

function projectionsOf(
  { served, numHeads, numKvHeads, headDim, rows, tokens }: ProducerSizes,
  windows: () => Iterable<ObjectiveWindow>,
): Projections[] {
  const group = numHeads / numKvHeads;
  const lists = served * numKvHeads;
  const queries = Array.from({ length: lists }, () => new Moments(headDim));
  const keys = Array.from({ length: lists }, () => new Moments(headDim));
  let count = 0;
  for (const window of windows()) {
    count++;
    for (let list = 0; list < lists; list++) {
      for (let i = 0; i < group * rows; i++) {
        queries[list]!.add(window.queries, (list * group * rows + i) * headDim);
      }
      for (let t = 0; t < tokens; t += KEY_STEP) {
        keys[list]!.add(window.keys, (list * tokens + t) * headDim);
      }
    }
  }
  return queries.map((moments, list) => {
    const q = rootOf(moments.matrix().div(count * group * rows));
    const k = rootOf(keys[list]!.matrix().div(count * Math.ceil(tokens / KEY_STEP)));
    const svd = new SVD(q.root.mmul(k.root));
    const size = Math.min(IMPORTANCE_DIM, headDim);
    const roots = svd.diagonal.slice(0, size).map(Math.sqrt);
    const part = (vectors: Matrix, scale: number) => {
      const out = Matrix.zeros(headDim, IMPORTANCE_DIM);
      for (let i = 0; i < headDim; i++) {
        for (let j = 0; j < size; j++) out.set(i, j, vectors.get(i, j) * roots[j]! * scale);
      }
      return out;
    };
    // Scores are divided by 4 where the model's are divided by the root of the head size.
    const scale = Math.sqrt(IMPORTANCE_DIM / headDim);
    return {
      query: part(q.inverse.mmul(svd.leftSingularVectors), scale),
      key: part(k.inverse.mmul(svd.rightSingularVectors), 1),
      weights: Array.from({ length: IMPORTANCE_DIM }, (_, j) => roots[j] ?? 0),
    };
  });
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

/** (rows, layers served, heads, 16): what the producer should give; sets the columns' weights. */
function targetsOf(
  { served, numHeads, numKvHeads, headDim, rows }: ProducerSizes,
  window: ObjectiveWindow,
  projections: readonly Projections[],
  weights: Float64Array,
): Float32Array {
  const group = numHeads / numKvHeads;
  const width = served * numHeads * IMPORTANCE_DIM;
  const out = new Float32Array(rows * width);
  for (let head = 0; head < served * numHeads; head++) {
    const { query, weights: own } = projections[Math.floor(head / group)]!;
    const matrix = query.to1DArray();
    for (let j = 0; j < IMPORTANCE_DIM; j++) weights[head * IMPORTANCE_DIM + j] = own[j]!;
    for (let row = 0; row < rows; row++) {
      const to = row * width + head * IMPORTANCE_DIM;
      for (let d = 0; d < headDim; d++) {
        const value = window.queries[(head * rows + row) * headDim + d]!;
        for (let j = 0; j < IMPORTANCE_DIM; j++) {
          out[to + j]! += value * matrix[d * IMPORTANCE_DIM + j]!;
        }
      }
    }
  }
  return out;
}

/**
 * Pairs of opposite directions along which the states tell most about the targets (reduced-rank
 * regression), each of which the states have variance 1 in.
 *
 * @returns (inner, hidden size)
 */
function firstMatrix(
  { hiddenSize, inner }: ProducerSizes,
  states: readonly Float32Array[],
  targets: readonly Float32Array[],
  weights: Float64Array,
): Float32Array<ArrayBuffer> {
  const width = weights.length;
  const weighted = targets.map((rows) => rows.map((value, i) => value * weights[i % width]!));
  const linear = ridge(states, weighted, hiddenSize, width);
  const moments = momentsOf(states, hiddenSize);
  const fitted = linear.transpose().mmul(moments.mmul(linear));
  const found = new EigenvalueDecomposition(fitted, { assumeSymmetric: true });
  const order = found.realEigenvalues.map((_, index) => index)
    .sort((a, b) => found.realEigenvalues[b]! - found.realEigenvalues[a]!);
  const pairs = Math.floor(inner / 2);
  const up = new Float32Array(inner * hiddenSize);
  for (let pair = 0; pair < pairs; pair++) {
    const direction = linear.mmul(
      Matrix.columnVector(found.eigenvectorMatrix.getColumn(order[pair % width]!)),
    );
    const size = Math.sqrt(
      Math.max(direction.transpose().mmul(moments.mmul(direction)).get(0, 0), 1e-12),
    );
    for (let i = 0; i < hiddenSize; i++) {
      const value = direction.get(i, 0) / size;
      up[pair * hiddenSize + i] = value;
      up[(pairs + pair) * hiddenSize + i] = -value;
    }
  }
  return up;
}

function featuresOf(
  states: Float32Array,
  up: Float32Array,
  hiddenSize: number,
  inner: number,
): Float32Array {
  const rows = states.length / hiddenSize;
  const out = new Float32Array(rows * inner);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < inner; i++) {
      let sum = 0;
      for (let j = 0; j < hiddenSize; j++) {
        sum += states[row * hiddenSize + j]! * up[i * hiddenSize + j]!;
      }
      out[row * inner + i] = sum / (1 + Math.exp(-sum));
    }
  }
  return out;
}

/** Mean of x transposed times x. */
function momentsOf(parts: readonly Float32Array[], size: number): Matrix {
  const moments = new Moments(size);
  let count = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += size) {
      moments.add(part, at);
      count++;
    }
  }
  return moments.matrix().div(Math.max(count, 1));
}

/**
 * Least squares with a small ridge.
 *
 * @param inputs (rows, size) each
 * @param outputs (rows, width) each
 * @returns (size, width)
 */
function ridge(
  inputs: readonly Float32Array[],
  outputs: readonly Float32Array[],
  size: number,
  width: number,
): Matrix {
  const left = momentsOf(inputs, size);
  const right = new Float64Array(size * width);
  let count = 0;
  inputs.forEach((input, index) => {
    const output = outputs[index]!;
    for (let row = 0; row < input.length / size; row++) {
      count++;
      for (let i = 0; i < size; i++) {
        const value = input[row * size + i]!;
        const to = i * width;
        const from = row * width;
        for (let j = 0; j < width; j++) right[to + j]! += value * output[from + j]!;
      }
    }
  });
  const mean = left.trace() / size;
  for (let i = 0; i < size; i++) left.set(i, i, left.get(i, i) + RIDGE * mean + 1e-12);
  const target = new Matrix(
    Array.from(
      { length: size },
      (_, i) =>
        Array.from(
          right.subarray(i * width, (i + 1) * width),
          (value) => value / Math.max(count, 1),
        ),
    ),
  );
  return new CholeskyDecomposition(left).solve(target);
}
