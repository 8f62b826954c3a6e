/**
 * A producer before training, in closed form. What queries should be follows from the projections of
 * `projections.ts`, and the producer is fitted to that by least squares. Its first matrix has pairs of
 * opposite rows: silu(u) - silu(-u) = u, so that it can do at least what a linear map can.
 *
 * @module
 */
import { CholeskyDecomposition, EigenvalueDecomposition, Matrix } from "ml-matrix";
import { IMPORTANCE_DIM } from "../butler/predictor/shape.ts";
import { STILL, type Turning } from "../butler/predictor/turns.ts";
import { Moments } from "./moments.ts";
import {
  normalized,
  type ObjectiveWindow,
  type ProducerSizes,
  type ProducerValues,
} from "./objective.ts";
import {
  anglesAt,
  type Projections,
  projectionsOf,
  type RopePairs,
  unturnedQuery,
} from "./projections.ts";

/** Ridge, as a part of the mean of the diagonal. */
const RIDGE = 1e-3;

/** A producer, and how its queries turn. */
export interface Start {
  readonly values: ProducerValues<Float32Array<ArrayBuffer>>;
  readonly turning: Turning;
}

/**
 * Values to begin with.
 *
 * @param sinks First rows, which are never chosen.
 * @param windows Gives the windows again each time it is called.
 */
export function startOf(
  sizes: ProducerSizes,
  rope: RopePairs,
  sinks: number,
  windows: () => Iterable<ObjectiveWindow>,
): Start {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim } = sizes;
  const projections = projectionsOf(sizes, rope, sinks, windows);
  const keys = new Float32Array(served * numKvHeads * headDim * IMPORTANCE_DIM);
  projections.forEach(({ key }, list) => {
    keys.set(key.to1DArray(), list * headDim * IMPORTANCE_DIM);
  });
  const width = served * numHeads * IMPORTANCE_DIM;
  const weights = weightsOf(sizes, projections);
  /** What is known of a window's rows, and what should come of it; made anew in each pass. */
  const rowsOf = function* () {
    for (const window of windows()) {
      const states = Float32Array.from(normalized(window.hidden, hiddenSize));
      yield { states, targets: targetsOf(sizes, rope, window, projections) };
    }
  };
  const up = firstMatrix(sizes, rowsOf(), weights);
  const features = function* () {
    for (const { states, targets } of rowsOf()) {
      yield { input: featuresOf(states, up, hiddenSize, inner), output: targets };
    }
  };
  const { fitted } = ridge(features(), inner, width);
  const down = new Float32Array(width * inner);
  for (let i = 0; i < inner; i++) {
    for (let j = 0; j < width; j++) down[j * inner + i] = fitted.get(i, j);
  }
  return {
    values: {
      up,
      down,
      keys,
      gain: new Float32Array(hiddenSize).fill(1),
      bias: new Float32Array(hiddenSize),
    },
    turning: {
      turns: Int32Array.from(projections.flatMap(({ turns }) => turns)),
      frequencies: rope.inverseFrequencies,
    },
  };
}

/** (layers served, heads, 16) weights of what the producer should give. */
function weightsOf(
  { served, numHeads, numKvHeads }: ProducerSizes,
  projections: readonly Projections[],
): Float64Array {
  const group = numHeads / numKvHeads;
  return Float64Array.from(
    { length: served * numHeads * IMPORTANCE_DIM },
    (_, i) => {
      const head = Math.floor(i / IMPORTANCE_DIM);
      return projections[Math.floor(head / group)]!.weights[i % IMPORTANCE_DIM]!;
    },
  );
}

/** (rows, layers served, heads, 16): what the producer should give, before it is turned. */
function targetsOf(
  { served, numHeads, numKvHeads, headDim, rows }: ProducerSizes,
  rope: RopePairs,
  window: ObjectiveWindow,
  projections: readonly Projections[],
): Float32Array {
  const group = numHeads / numKvHeads;
  const width = served * numHeads * IMPORTANCE_DIM;
  const out = new Float32Array(rows * width);
  const angles = Array.from(
    { length: rows },
    (_, row) => anglesAt(rope, window.positions[row]!),
  );
  for (let head = 0; head < served * numHeads; head++) {
    const { query, turns } = projections[Math.floor(head / group)]!;
    const matrix = query.to1DArray();
    const firstStill = 2 * turns.filter((turn) => turn !== STILL).length;
    for (let row = 0; row < rows; row++) {
      const to = row * width + head * IMPORTANCE_DIM;
      const at = (head * rows + row) * headDim;
      const unturned = unturnedQuery(window.queries, at, headDim, rope, angles[row]!);
      for (let d = 0; d < headDim; d++) {
        for (let j = 0; j < IMPORTANCE_DIM; j++) {
          const value = j < firstStill ? unturned[d]! : window.queries[at + d]!;
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
  rows: Iterable<{ readonly states: Float32Array; readonly targets: Float32Array }>,
  weights: Float64Array,
): Float32Array<ArrayBuffer> {
  const width = weights.length;
  const weighted = function* () {
    for (const { states, targets } of rows) {
      yield { input: states, output: targets.map((value, i) => value * weights[i % width]!) };
    }
  };
  const { fitted: linear, moments } = ridge(weighted(), hiddenSize, width);
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

/** Rows of a window. */
interface FitRows {
  /** (rows, size) */
  readonly input: Float32Array;
  /** (rows, width) */
  readonly output: Float32Array;
}

/**
 * Least squares with a small ridge.
 *
 * @returns `fitted` (size, width), and the second moments of the inputs (size, size)
 */
function ridge(
  parts: Iterable<FitRows>,
  size: number,
  width: number,
): { readonly fitted: Matrix; readonly moments: Matrix } {
  const seen = new Moments(size);
  const right = new Float64Array(size * width);
  for (const { input, output } of parts) {
    for (let row = 0; row < input.length / size; row++) {
      seen.add(input, row * size);
      for (let i = 0; i < size; i++) {
        const value = input[row * size + i]!;
        const to = i * width;
        const from = row * width;
        for (let j = 0; j < width; j++) right[to + j]! += value * output[from + j]!;
      }
    }
  }
  const moments = seen.mean();
  const left = moments.clone();
  const mean = left.trace() / size;
  for (let i = 0; i < size; i++) left.set(i, i, left.get(i, i) + RIDGE * mean + 1e-12);
  const target = new Matrix(
    Array.from(
      { length: size },
      (_, i) =>
        Array.from(
          right.subarray(i * width, (i + 1) * width),
          (value) => value / Math.max(seen.count, 1),
        ),
    ),
  );
  return { fitted: new CholeskyDecomposition(left).solve(target), moments };
}
