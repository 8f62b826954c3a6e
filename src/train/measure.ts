/** How good a predictor's choice of rows is, on windows that it was not trained on. @module */
import { IMPORTANCE_DIM } from "../butler/predictor/shape.ts";
import { type Turning, turnQueries } from "../butler/predictor/turns.ts";
import { withNeighbours } from "./neighbours.ts";
import {
  normalized,
  type ObjectiveWindow,
  type ProducerSizes,
  type ProducerValues,
} from "./objective.ts";

/** Rows of a step while it is measured. */
export interface MeasureSettings {
  readonly sinks: number;
  readonly window: number;
  /** Rows that are chosen. */
  readonly budget: number;
  /** Counts of chosen rows for the curves, rising. */
  readonly counts: readonly number[];
  /** What is kept from an earlier row. */
  readonly kept: {
    /** Rows that it chose; a run of them brings as many after it. */
    readonly budget: number;
    /** It lies so many rows back at most. */
    readonly steps: number;
  };
}

/** Means over rows, and over the query heads of the KV head. */
export interface HeadMeasure {
  /** Share of the true top-B among the chosen rows. */
  readonly recall: number;
  /** The same of the most recent candidates. */
  readonly recentRecall: number;
  /** Part of all attention that sinks and window have. */
  readonly base: number;
  /** (counts) part that the first so many rows of the predictor add, and of the model's own order. */
  readonly added: readonly number[];
  readonly best: readonly number[];
  /** The same for the budget, sinks and window included. */
  readonly mass: number;
  readonly bestMass: number;
  /** Rows that had more candidates than the budget. */
  readonly rows: number;
  /** Of what is kept; null where no row had an earlier one near enough. */
  readonly kept: KeptMeasure | null;
}

/** Parts of all attention that rows miss, the mean over them. */
export interface KeptMeasure {
  /** Rows with an earlier one near enough. */
  readonly rows: number;
  /** With what they choose themselves. */
  readonly missedFresh: number;
  /** With what the measured row before chose, its neighbours, and all rows since its window began. */
  readonly missedKept: number;
}

/** Tokens that an order can tell apart. */
const MOST_TOKENS = 2 ** 21;

/**
 * Measures a producer's layers over some windows.
 *
 * @returns (layers served, KV heads) in one list.
 */
export function measure(
  sizes: ProducerSizes,
  values: ProducerValues<ArrayLike<number>>,
  turning: Turning,
  windows: Iterable<ObjectiveWindow>,
  settings: MeasureSettings,
): HeadMeasure[] {
  const { served, numKvHeads } = sizes;
  const sums = Array.from({ length: served * numKvHeads }, () => new Sums(settings));
  for (const window of windows) {
    const queries = importanceQueriesOf(sizes, values, turning, window);
    for (let list = 0; list < served * numKvHeads; list++) {
      measureHead(sizes, values, window, queries, list, settings, sums[list]!);
    }
  }
  return sums.map((of) => of.means());
}

/** (rows, layers served, heads, 16) */
function importanceQueriesOf(
  { hiddenSize, inner, served, numHeads, numKvHeads, rows }: ProducerSizes,
  { up, down, gain, bias }: ProducerValues<ArrayLike<number>>,
  turning: Turning,
  window: ObjectiveWindow,
): Float32Array {
  const x = normalized(window.hidden, hiddenSize);
  const width = served * numHeads * IMPORTANCE_DIM;
  const out = new Float32Array(rows * width);
  const features = new Float64Array(inner);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < inner; i++) {
      let sum = 0;
      for (let j = 0; j < hiddenSize; j++) {
        sum += (x[row * hiddenSize + j]! * gain[j]! + bias[j]!) * up[i * hiddenSize + j]!;
      }
      features[i] = sum / (1 + Math.exp(-sum));
    }
    for (let j = 0; j < width; j++) {
      let sum = 0;
      for (let i = 0; i < inner; i++) sum += features[i]! * down[j * inner + i]!;
      out[row * width + j] = sum;
    }
    turnQueries(out, row * width, turning, numHeads / numKvHeads, window.positions[row]!);
  }
  return out;
}

function measureHead(
  sizes: ProducerSizes,
  values: ProducerValues<ArrayLike<number>>,
  window: ObjectiveWindow,
  queries: Float32Array,
  list: number,
  settings: MeasureSettings,
  sums: Sums,
): void {
  const { served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const group = numHeads / numKvHeads;
  const width = served * numHeads * IMPORTANCE_DIM;
  const keys = window.keys as Float32Array;
  const own = projectedKeys(sizes, values, window, list);
  const weights = Array.from({ length: group }, () => new Float32Array(tokens));
  const truth = new Float32Array(tokens);
  const guess = new Float32Array(tokens);
  let before: Choice | null = null;
  for (let row = 0; row < rows; row++) {
    const count = window.positions[row]! + 1;
    const end = count - settings.window;
    if (end - settings.sinks <= settings.budget) continue;
    truth.fill(-Infinity, 0, count);
    guess.fill(-Infinity, 0, count);
    for (let g = 0; g < group; g++) {
      const head = list * group + g;
      const query = Float32Array.from(
        { length: headDim },
        (_, d) => window.queries[(head * rows + row) * headDim + d]! / Math.sqrt(headDim),
      );
      scoresInto(weights[g]!, truth, query, keys, list * tokens * headDim, count);
      softmax(weights[g]!, count);
      const at = row * width + head * IMPORTANCE_DIM;
      const small = queries.subarray(at, at + IMPORTANCE_DIM);
      scoresInto(null, guess, small, own, 0, count);
    }
    const guessed = order(guess, settings.sinks, end);
    sums.add(weights, order(truth, settings.sinks, end), guessed, count);
    if (before !== null && end - before.end <= settings.kept.steps) {
      sums.addKept(weights, before, guessed, count);
    }
    before = { rows: guessed.slice(0, settings.kept.budget), end };
  }
}

/** What a row chose. */
interface Choice {
  /** The best first. */
  readonly rows: Uint32Array;
  /** Where its candidates ended and its window began. */
  readonly end: number;
}

/** (tokens, 16) */
function projectedKeys(
  { headDim, tokens }: ProducerSizes,
  values: ProducerValues<ArrayLike<number>>,
  window: ObjectiveWindow,
  list: number,
): Float32Array {
  const out = new Float32Array(tokens * IMPORTANCE_DIM);
  const matrix = Float32Array.from(
    { length: headDim * IMPORTANCE_DIM },
    (_, i) => values.keys[list * headDim * IMPORTANCE_DIM + i]!,
  );
  for (let t = 0; t < tokens; t++) {
    for (let d = 0; d < headDim; d++) {
      const value = window.keys[(list * tokens + t) * headDim + d]!;
      for (let j = 0; j < IMPORTANCE_DIM; j++) {
        out[t * IMPORTANCE_DIM + j]! += value * matrix[d * IMPORTANCE_DIM + j]!;
      }
    }
  }
  return out;
}

/** q . k of the first keys, to one list, and to another where it is larger. */
function scoresInto(
  out: Float32Array | null,
  most: Float32Array,
  query: Float32Array,
  keys: Float32Array,
  at: number,
  count: number,
): void {
  const size = query.length;
  for (let t = 0; t < count; t++) {
    let sum = 0;
    const from = at + t * size;
    for (let d = 0; d < size; d++) sum += query[d]! * keys[from + d]!;
    if (out !== null) out[t] = sum;
    if (sum > most[t]!) most[t] = sum;
  }
}

function softmax(values: Float32Array, count: number): void {
  let most = -Infinity;
  for (let t = 0; t < count; t++) most = Math.max(most, values[t]!);
  let sum = 0;
  for (let t = 0; t < count; t++) sum += values[t] = Math.exp(values[t]! - most);
  for (let t = 0; t < count; t++) values[t]! /= sum;
}

/** Positions first .. end - 1 by falling score, the older of equals first. */
function order(scores: Float32Array, first: number, end: number): Uint32Array {
  const bits = new Uint32Array(scores.buffer, scores.byteOffset, scores.length);
  const keys = new Float64Array(end - first);
  for (let i = 0; i < keys.length; i++) {
    const word = bits[first + i]!;
    // Order of the bits as of the numbers; small keys come first.
    const rising = word >>> 31 === 1 ? ~word >>> 0 : (word | 0x80000000) >>> 0;
    keys[i] = (0xffffffff - rising) * MOST_TOKENS + i;
  }
  keys.sort();
  return Uint32Array.from(keys, (key) => first + key % MOST_TOKENS);
}

class Sums {
  #rows = 0;
  #hits = 0;
  #recentHits = 0;
  #base = 0;
  readonly #added: Float64Array;
  readonly #best: Float64Array;
  #pairs = 0;
  #missedFresh = 0;
  #missedKept = 0;
  readonly #counts: readonly number[];
  readonly #settings: MeasureSettings;

  constructor(settings: MeasureSettings) {
    this.#settings = settings;
    // The budget's own place is the last one.
    this.#counts = [...settings.counts, settings.budget];
    this.#added = new Float64Array(this.#counts.length);
    this.#best = new Float64Array(this.#counts.length);
  }

  add(
    weights: readonly Float32Array[],
    truth: Uint32Array,
    guess: Uint32Array,
    count: number,
  ): void {
    const { sinks, window, budget } = this.#settings;
    this.#rows++;
    const wanted = new Set(truth.subarray(0, budget));
    for (let i = 0; i < budget; i++) {
      if (wanted.has(guess[i]!)) this.#hits++;
      if (wanted.has(count - window - 1 - i)) this.#recentHits++;
    }
    for (const of of weights) {
      for (let t = 0; t < sinks; t++) this.#base += of[t]! / weights.length;
      for (let t = count - window; t < count; t++) this.#base += of[t]! / weights.length;
      this.#cumulate(this.#added, of, guess, weights.length);
      this.#cumulate(this.#best, of, truth, weights.length);
    }
  }

  /** A row with what an earlier one chose, and with what it chooses itself. */
  addKept(
    weights: readonly Float32Array[],
    before: Choice,
    guess: Uint32Array,
    count: number,
  ): void {
    const { sinks, window, kept: { budget } } = this.#settings;
    const old = withNeighbours(before.rows, before.end, 2 * budget);
    const own = guess.subarray(0, budget);
    this.#pairs++;
    for (const of of weights) {
      const missed = (rows: Iterable<number>, windowStart: number) => {
        let sum = 1;
        for (let t = 0; t < sinks; t++) sum -= of[t]!;
        for (const t of rows) sum -= of[t]!;
        for (let t = windowStart; t < count; t++) sum -= of[t]!;
        return Math.max(0, sum) / weights.length;
      };
      this.#missedFresh += missed(own, count - window);
      this.#missedKept += missed(old, before.end);
    }
  }

  #cumulate(to: Float64Array, weights: Float32Array, order: Uint32Array, heads: number): void {
    this.#counts.forEach((count, index) => {
      let sum = 0;
      const end = Math.min(count, order.length);
      for (let i = 0; i < end; i++) sum += weights[order[i]!]!;
      to[index]! += sum / heads;
    });
  }

  means(): HeadMeasure {
    const rows = Math.max(1, this.#rows);
    const base = this.#base / rows;
    const of = (sums: Float64Array) => Array.from(sums, (sum) => sum / rows);
    const added = of(this.#added);
    const best = of(this.#best);
    return {
      recall: this.#hits / (rows * this.#settings.budget),
      recentRecall: this.#recentHits / (rows * this.#settings.budget),
      base,
      added: added.slice(0, -1),
      best: best.slice(0, -1),
      mass: base + added.at(-1)!,
      bestMass: base + best.at(-1)!,
      rows: this.#rows,
      kept: this.#pairs === 0 ? null : {
        rows: this.#pairs,
        missedFresh: this.#missedFresh / this.#pairs,
        missedKept: this.#missedKept / this.#pairs,
      },
    };
  }
}
