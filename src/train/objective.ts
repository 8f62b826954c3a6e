/**
 * What a predictor is trained for, in plain TypeScript: the loss of one producer over one window, and
 * its gradients. The kernels compute the same; this is what they are checked against.
 *
 * @module
 */
import { PRODUCER_NORM_EPS } from "../butler/predictor/predictor.ts";
import { IMPORTANCE_DIM } from "../butler/predictor/shape.ts";
import { type Turning, turnQueries } from "../butler/predictor/turns.ts";

/** Every loss. */
export const LOSSES = ["full", "candidates", "group", "tail"] as const;
/**
 * Cross-entropy of the model's and the predictor's attention, by row and query head. `full`: over all
 * rows so far (the method's own). `candidates`: over the rows between sinks and window only, so that
 * the capacity goes to the rows that have to be chosen. `group`: `candidates` at half weight, and over
 * the candidates the cross-entropy between the largest attention of a KV head's query heads and the
 * softmax of the smooth maximum (logarithm of the sum of exponentials) of their scores, which is what
 * rows are chosen by. `tail`: `group`, and the last term once more with the roots of both
 * distributions (twice the temperature), so that rows of little attention are ranked too.
 */
export type Loss = typeof LOSSES[number];

/** What decides on the loss. */
export interface Objective {
  readonly loss: Loss;
  /** Rows that are no candidates: the first, and the most recent (the row's own included). */
  readonly sinks: number;
  readonly window: number;
}

/** Weights of the terms. */
export interface LossWeights {
  readonly head: number;
  readonly group: number;
  readonly tail: number;
}

/** Weights of the terms of a loss. */
export function lossWeights(loss: Loss): LossWeights {
  if (loss === "tail") return { head: 0.5, group: 1, tail: 1 };
  return loss === "group" ? { head: 0.5, group: 1, tail: 0 } : { head: 1, group: 0, tail: 0 };
}

/** Sizes of what is trained at once: a producer and the layers that it serves. */
export interface ProducerSizes {
  readonly hiddenSize: number;
  readonly inner: number;
  /** Layers. */
  readonly served: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Rows and tokens of a window. */
  readonly rows: number;
  readonly tokens: number;
}

/** Trained values; gradients have the same form. */
export interface ProducerValues<T = Float32Array> {
  /** (inner, hidden size) */
  readonly up: T;
  /** (layers served, heads, 16; inner) */
  readonly down: T;
  /** (layers served, KV heads, head size, 16) */
  readonly keys: T;
  /** (hidden size) */
  readonly gain: T;
  readonly bias: T;
}

/** Candidates of a row: positions first .. end - 1; none where end <= first. */
export function candidatesOf(position: number, { loss, sinks, window }: Objective) {
  return loss === "full"
    ? { first: 0, end: position + 1 }
    : { first: sinks, end: position + 1 - window };
}

/** What the model itself attends to. */
export interface Teacher {
  /** (layers served, heads, rows, tokens): attention among the candidates, 1 in sum or 0 */
  readonly shares: Float64Array;
  /** (layers served, heads, rows): part of all attention that the candidates have */
  readonly mass: Float64Array;
}

/** Parts of a window that the objective sees. */
export interface ObjectiveWindow {
  readonly positions: ArrayLike<number>;
  /** (rows, hidden size) */
  readonly hidden: ArrayLike<number>;
  /** (layers served, heads, rows, head size) */
  readonly queries: ArrayLike<number>;
  /** (layers served, KV heads, tokens, head size) */
  readonly keys: ArrayLike<number>;
}

/** The model's attention over a window, softmax(q . k / sqrt(head size)). */
export function teacherOf(
  sizes: ProducerSizes,
  window: ObjectiveWindow,
  objective: Objective,
): Teacher {
  const { served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const group = numHeads / numKvHeads;
  const shares = new Float64Array(served * numHeads * rows * tokens);
  const mass = new Float64Array(served * numHeads * rows);
  const scale = 1 / Math.sqrt(headDim);
  for (let list = 0; list < served * numHeads; list++) {
    const kv = Math.floor(list / numHeads) * numKvHeads + Math.floor(list % numHeads / group);
    for (let row = 0; row < rows; row++) {
      const position = window.positions[row]!;
      const scores = Float64Array.from({ length: position + 1 }, (_, t) => {
        let sum = 0;
        for (let d = 0; d < headDim; d++) {
          sum += window.queries[(list * rows + row) * headDim + d]! *
            window.keys[(kv * tokens + t) * headDim + d]!;
        }
        return sum * scale;
      });
      const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      const weights = scores.map((score) => Math.exp(score - most));
      const { first, end } = candidatesOf(position, objective);
      const among = weights.subarray(first, Math.max(first, end));
      const sum = among.reduce((a, b) => a + b, 0);
      mass[list * rows + row] = sum / weights.reduce((a, b) => a + b, 0);
      if (sum > 0) shares.set(among.map((w) => w / sum), (list * rows + row) * tokens + first);
    }
  }
  return { shares, mass };
}

/** Hidden states with mean 0 and variance 1: (rows, hidden size). */
export function normalized(hidden: ArrayLike<number>, size: number): Float64Array {
  const out = new Float64Array(hidden.length);
  for (let start = 0; start < hidden.length; start += size) {
    let mean = 0;
    for (let i = 0; i < size; i++) mean += hidden[start + i]! / size;
    let variance = 0;
    for (let i = 0; i < size; i++) variance += (hidden[start + i]! - mean) ** 2 / size;
    const scale = 1 / Math.sqrt(variance + PRODUCER_NORM_EPS);
    for (let i = 0; i < size; i++) out[start + i] = (hidden[start + i]! - mean) * scale;
  }
  return out;
}

/**
 * Loss and gradients of a window.
 *
 * Losses are means over layers, heads (KV heads for the group's term) and rows that have candidates
 * divided by all rows.
 */
export function lossAndGradients(
  sizes: ProducerSizes,
  values: ProducerValues<ArrayLike<number>>,
  turning: Turning,
  window: ObjectiveWindow,
  teacher: Teacher,
  objective: Objective,
): { readonly loss: number; readonly gradients: ProducerValues<Float64Array> } {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const dim = IMPORTANCE_DIM;
  const group = numHeads / numKvHeads;
  const width = served * numHeads * dim;
  const x = normalized(window.hidden, hiddenSize);
  const { gain, bias } = values;
  const normed = x.map((value, i) => value * gain[i % hiddenSize]! + bias[i % hiddenSize]!);
  const before = matmul(normed, values.up, rows, inner, hiddenSize, "NT");
  const features = before.map((u) => u / (1 + Math.exp(-u)));
  const queries = matmul(features, values.down, rows, width, inner, "NT");
  const turn = (of: Float64Array, sign: number) => {
    for (let row = 0; row < rows; row++) {
      turnQueries(of, row * width, turning, group, sign * window.positions[row]!);
    }
  };
  turn(queries, 1);
  const gradients = {
    up: new Float64Array(values.up.length),
    down: new Float64Array(values.down.length),
    keys: new Float64Array(values.keys.length),
    gain: new Float64Array(hiddenSize),
    bias: new Float64Array(hiddenSize),
  };
  const queryGradients = new Float64Array(queries.length);
  const weights = lossWeights(objective.loss);
  let loss = 0;
  for (let kv = 0; kv < served * numKvHeads; kv++) {
    const layer = Math.floor(kv / numKvHeads);
    const slice = (from: ArrayLike<number>, size: number) =>
      Array.prototype.slice.call(from, kv * size, (kv + 1) * size) as number[];
    const realKeys = slice(window.keys, tokens * headDim);
    const matrix = slice(values.keys, headDim * dim);
    const keys = matmul(realKeys, matrix, tokens, dim, headDim, "NN");
    const keyGradients = new Float64Array(keys.length);
    for (let row = 0; row < rows; row++) {
      const { first, end } = candidatesOf(window.positions[row]!, objective);
      if (end <= first) continue;
      const heads = Array.from(
        { length: group },
        (_, g) => layer * numHeads + (kv % numKvHeads) * group + g,
      );
      const scores = heads.map((head) =>
        Float64Array.from({ length: end - first }, (_, i) => {
          let sum = 0;
          for (let d = 0; d < dim; d++) {
            sum += queries[row * width + head * dim + d]! * keys[(first + i) * dim + d]!;
          }
          return sum / Math.sqrt(dim);
        })
      );
      const { value, slopes } = rowLoss(
        scores,
        heads.map((head) => {
          const start = (head * rows + row) * tokens;
          return teacher.shares.subarray(start + first, start + end);
        }),
        heads.map((head) => teacher.mass[head * rows + row]!),
        {
          head: weights.head / (served * numHeads * rows),
          group: weights.group / (served * numKvHeads * rows),
          tail: weights.tail / (served * numKvHeads * rows),
        },
      );
      loss += value;
      heads.forEach((head, g) => {
        for (let i = 0; i < end - first; i++) {
          const slope = slopes[g]![i]! / Math.sqrt(dim);
          for (let d = 0; d < dim; d++) {
            const q = row * width + head * dim + d;
            const k = (first + i) * dim + d;
            queryGradients[q]! += slope * keys[k]!;
            keyGradients[k]! += slope * queries[q]!;
          }
        }
      });
    }
    const gradient = matmul(realKeys, keyGradients, headDim, dim, tokens, "TN");
    gradients.keys.set(gradient, kv * headDim * dim);
  }
  // The gradient before a rotation is that after it, turned back.
  turn(queryGradients, -1);
  gradients.down.set(matmul(queryGradients, features, width, inner, rows, "TN"));
  const inwards = matmul(queryGradients, values.down, rows, inner, width, "NN").map((value, i) => {
    const sigmoid = 1 / (1 + Math.exp(-before[i]!));
    return value * sigmoid * (1 + before[i]! * (1 - sigmoid));
  });
  gradients.up.set(matmul(inwards, normed, inner, hiddenSize, rows, "TN"));
  matmul(inwards, values.up, rows, hiddenSize, inner, "NN").forEach((value, i) => {
    gradients.gain[i % hiddenSize]! += value * x[i]!;
    gradients.bias[i % hiddenSize]! += value;
  });
  return { loss, gradients };
}

/**
 * Loss of a row and a KV head, and its slope by each score.
 *
 * @param scores (heads of the group) each of the candidates
 * @param shares (heads of the group) as of {@linkcode Teacher}
 */
export function rowLoss(
  scores: readonly Float64Array[],
  shares: readonly ArrayLike<number>[],
  mass: readonly number[],
  weights: LossWeights,
): { readonly value: number; readonly slopes: readonly Float64Array[] } {
  const most = Math.max(...scores.map((of) => of.reduce((a, b) => Math.max(a, b), -Infinity)));
  const powers = scores.map((of) => of.map((score) => Math.exp(score - most)));
  const sums = powers.map((of) => of.reduce((a, b) => a + b, 0));
  const together = sums.reduce((a, b) => a + b, 0);
  const count = scores[0]!.length;
  const target = Float64Array.from(
    { length: count },
    (_, i) => shares.reduce((top, of, g) => Math.max(top, of[i]! * mass[g]!), 0),
  );
  const targetSum = target.reduce((a, b) => a + b, 0);
  const sumOf = (count: number, of: (i: number) => number) =>
    Array.from({ length: count }, (_, i) => of(i)).reduce((a, b) => a + b, 0);
  const hereAt = (i: number) => powers.reduce((sum, of) => sum + of[i]!, 0);
  const roots = sumOf(count, (i) => Math.sqrt(hereAt(i)));
  const targetRoots = sumOf(count, (i) => Math.sqrt(target[i]!));
  let value = 0;
  const slopes = scores.map(() => new Float64Array(count));
  for (let i = 0; i < count; i++) {
    const here = hereAt(i);
    const wanted = targetSum > 0 ? target[i]! / targetSum : 0;
    if (wanted > 0) value -= weights.group * wanted * Math.log(here / together);
    const root = Math.sqrt(here) / roots;
    const wantedRoot = targetRoots > 0 ? Math.sqrt(target[i]!) / targetRoots : 0;
    if (wantedRoot > 0) value -= weights.tail * wantedRoot * Math.log(root);
    const groupSlope = weights.group * (here / together - wanted) +
      weights.tail * (root - wantedRoot) / 2;
    scores.forEach((of, g) => {
      const share = shares[g]![i]!;
      if (share > 0) value -= weights.head * share * (of[i]! - most - Math.log(sums[g]!));
      slopes[g]![i] = weights.head * (powers[g]![i]! / sums[g]! - share) +
        groupSlope * powers[g]![i]! / here;
    });
  }
  return { value, slopes };
}

/**
 * A product of matrices, in double precision.
 *
 * @param form NT: (m, k) by (n, k) transposed. NN: (m, k) by (k, n). TN: (k, m) transposed by (k, n).
 * @returns (m, n)
 */
export function matmul(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  m: number,
  n: number,
  k: number,
  form: "NT" | "NN" | "TN",
): Float64Array<ArrayBuffer> {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) {
        sum += a[form === "TN" ? l * m + i : i * k + l]! *
          b[form === "NT" ? j * k + l : l * n + j]!;
      }
      out[i * n + j] = sum;
    }
  }
  return out;
}
