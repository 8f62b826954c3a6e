/**
 * How good selections are beside dense attention: which of the truly best rows they have, and how much
 * of the attention falls on the rows that they attend to.
 *
 * The true top-B of a KV head are the rows between sinks and window whose largest q . k over the query
 * heads of the group is largest. The mass of a selection is the part of the exact attention that its
 * rows have, the mean over those query heads; the best mass is that of sinks, window and true top-B.
 *
 * @module
 */

/** What a row attends to in a layer. Positions; the row's own is the last one. */
export interface AttendedRows {
  /** Rows 0 .. prefix - 1. */
  readonly prefix: number;
  /** Rows from here to the row's own. */
  readonly windowStart: number;
  /** (KV heads) rows between those. */
  readonly lists: readonly ArrayLike<number>[];
}

/** Which rows are no candidates, and how many are the best. */
export interface TruthRows {
  readonly sinks: number;
  readonly window: number;
  readonly budget: number;
}

/** Exact attention of a KV head at a row. */
export interface HeadTruth {
  /** (rows) attention, the mean over the query heads of the group. */
  readonly weights: Float32Array;
  /** Positions of the true top-B. */
  readonly best: Uint32Array;
  /** Attention on sinks, window and true top-B. */
  readonly bestMass: number;
}

/** A selection of a KV head, measured. */
export interface HeadShare {
  /** Part of the true top-B that is attended to. */
  readonly recall: number;
  readonly mass: number;
}

/**
 * Exact attention of a row.
 *
 * @param queries (query heads of the group, head size) after RoPE
 * @param keys (rows, head size) of the KV head; rows after the row's own do not count
 * @param count Rows, the row's own included.
 * @returns Null where there are no more candidates than the budget.
 */
export function headTruth(
  queries: Float32Array,
  keys: Float32Array,
  headDim: number,
  count: number,
  { sinks, window, budget }: TruthRows,
): HeadTruth | null {
  const end = count - window;
  if (end - sinks <= budget) return null;
  const group = queries.length / headDim;
  const weights = new Float32Array(count);
  const most = new Float32Array(count).fill(-Infinity);
  const logits = new Float32Array(count);
  const scale = 1 / Math.sqrt(headDim);
  for (let g = 0; g < group; g++) {
    const query = queries.subarray(g * headDim, (g + 1) * headDim);
    let top = -Infinity;
    for (let t = 0; t < count; t++) {
      const from = t * headDim;
      let sum = 0;
      for (let d = 0; d < headDim; d++) sum += query[d]! * keys[from + d]!;
      logits[t] = sum * scale;
      if (logits[t]! > top) top = logits[t]!;
      if (logits[t]! > most[t]!) most[t] = logits[t]!;
    }
    let sum = 0;
    for (let t = 0; t < count; t++) sum += logits[t] = Math.exp(logits[t]! - top);
    for (let t = 0; t < count; t++) weights[t]! += logits[t]! / (sum * group);
  }
  const best = largest(most.subarray(sinks, end), budget).map((at) => at + sinks);
  let bestMass = spanMass(weights, 0, sinks) + spanMass(weights, end, count);
  for (const at of best) bestMass += weights[at]!;
  return { weights, best, bestMass };
}

/** What a KV head's selection is worth. @param attended Null: all rows. */
export function headShare(
  { weights, best }: HeadTruth,
  attended: AttendedRows | null,
  head: number,
): HeadShare {
  if (attended === null) return { recall: 1, mass: 1 };
  const { prefix, windowStart, lists } = attended;
  const list = lists[head]!;
  let mass = spanMass(weights, 0, prefix) +
    spanMass(weights, Math.max(prefix, windowStart), weights.length);
  const chosen = new Set<number>();
  for (let i = 0; i < list.length; i++) {
    chosen.add(list[i]!);
    mass += weights[list[i]!]!;
  }
  const hits = best.reduce(
    (sum, at) => sum + Number(at < prefix || at >= windowStart || chosen.has(at)),
    0,
  );
  return { recall: best.length === 0 ? 1 : hits / best.length, mass };
}

/** Places of the largest values, rising; of equal ones the first. */
export function largest(values: Float32Array, count: number): Uint32Array {
  if (count <= 0) return new Uint32Array(0);
  const bound = values.slice().sort()[values.length - count]!;
  const above = values.reduce((sum, value) => sum + Number(value > bound), 0);
  let equal = count - above;
  const found: number[] = [];
  values.forEach((value, at) => {
    if (value > bound || (value === bound && equal-- > 0)) found.push(at);
  });
  return Uint32Array.from(found);
}

function spanMass(weights: Float32Array, from: number, to: number): number {
  let sum = 0;
  for (let t = from; t < to; t++) sum += weights[t]!;
  return sum;
}

/** Means over rows, by layer and KV head. */
export class RecallMeans {
  readonly #numKvHeads: number;
  readonly #recall: Float64Array;
  readonly #mass: Float64Array;
  readonly #best: Float64Array;
  readonly #rows: Float64Array;
  readonly #all: Float64Array;

  constructor(readonly numLayers: number, numKvHeads: number) {
    this.#numKvHeads = numKvHeads;
    const sums = () => new Float64Array(numLayers * numKvHeads);
    [this.#recall, this.#mass, this.#best] = [sums(), sums(), sums()];
    [this.#rows, this.#all] = [sums(), sums()];
  }

  /** @param all The row attends to everything in this layer. */
  add(layer: number, head: number, share: HeadShare, bestMass: number, all: boolean): void {
    const at = layer * this.#numKvHeads + head;
    this.#recall[at]! += share.recall;
    this.#mass[at]! += share.mass;
    this.#best[at]! += bestMass;
    this.#rows[at]!++;
    this.#all[at]! += Number(all);
  }

  /** By layer, then KV head; `selects` where some row did not attend to everything. */
  layers(): LayerRecall[] {
    return Array.from({ length: this.numLayers }, (_, layer) => {
      const span = (sums: Float64Array) =>
        Array.from({ length: this.#numKvHeads }, (_, head) => {
          const at = layer * this.#numKvHeads + head;
          return sums[at]! / Math.max(1, this.#rows[at]!);
        });
      return {
        recall: span(this.#recall),
        mass: span(this.#mass),
        best: span(this.#best),
        selects: span(this.#all).some((share) => share < 1),
      };
    });
  }

  /** Rows that were measured. */
  get rows(): number {
    return this.#rows[0] ?? 0;
  }
}

/** A layer, measured: (KV heads) each. */
export interface LayerRecall {
  readonly recall: readonly number[];
  readonly mass: readonly number[];
  /** Mass with the true top-B. */
  readonly best: readonly number[];
  readonly selects: boolean;
}

/** Means over KV heads and the layers after the first one in which rows are selected. */
export function overallRecall(
  layers: readonly LayerRecall[],
): { readonly recall: number; readonly mass: number; readonly best: number } {
  const counted = layers.slice(1).filter(({ selects }) => selects);
  const over = (pick: (layer: LayerRecall) => readonly number[]) => {
    const all = counted.flatMap(pick);
    return all.reduce((sum, value) => sum + value, 0) / Math.max(1, all.length);
  };
  return {
    recall: over(({ recall }) => recall),
    mass: over(({ mass }) => mass),
    best: over(({ best }) => best),
  };
}
