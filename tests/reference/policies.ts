/**
 * What each selection policy attends to, from queries and keys, as plainly as possible and without a
 * word of the program's own recipes.
 *
 * @module
 */
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import { lseReference } from "./mass.ts";
import {
  byteKeyReference,
  pageScoreReference,
  poolReference,
  projectReference,
  scoreReference,
} from "./score.ts";

/** Rows of everybody: sinks, window and the rows beside them. */
export interface PolicySizes {
  readonly sinks: number;
  readonly window: number;
  readonly budget: number;
}

/** Rows of one KV head at a step: a prefix, the best of the candidates, a window up to the newest. */
export interface PolicyRows {
  readonly prefix: number;
  readonly windowStart: number;
  /** Candidates `from <= unit < from + scores.length` of `unitRows` rows each, by score. */
  readonly from: number;
  readonly scores: readonly number[];
  readonly unitRows: number;
  readonly budget: number;
}

/** Queries (group, dimensions) and keys (positions, dimensions) of one KV head. */
export interface HeadData {
  readonly queries: readonly (readonly number[])[];
  readonly keys: readonly (readonly number[])[];
}

/** Sinks, window, and the best of what lies between. */
function between(sizes: PolicySizes, n: number, score: (position: number) => number): PolicyRows {
  const from = Math.min(sizes.sinks, n);
  const windowStart = Math.max(from, n - sizes.window);
  return {
    prefix: from,
    windowStart,
    from,
    scores: Array.from({ length: windowStart - from }, (_, i) => score(from + i)),
    unitRows: 1,
    budget: sizes.budget,
  };
}

/** Largest q . k. */
export function oracleReference(sizes: PolicySizes, { queries, keys }: HeadData): PolicyRows {
  return between(sizes, keys.length, (position) => scoreReference(queries, keys[position]!, 1));
}

/** What is left of a short key that is kept in half precision, or in bytes. */
export const KEPT_KEYS = {
  f16: (key: readonly number[]) => key.map((x) => halfToFloat(floatToHalf(x))),
  int8: (key: readonly number[]) => byteKeyReference(key).values,
} as const;

/**
 * Largest q . k after a projection to 16 dimensions.
 *
 * @param matrix (dimensions, 16)
 */
export function lokiReference(
  sizes: PolicySizes,
  { queries, keys }: HeadData,
  matrix: readonly number[],
  kept: keyof typeof KEPT_KEYS,
): PolicyRows {
  const short = queries.map((query) => projectReference(query, matrix, 16));
  return between(sizes, keys.length, (position) => {
    const key = projectReference(keys[position]!, matrix, 16);
    return scoreReference(short, KEPT_KEYS[kept](key), 1);
  });
}

/**
 * The best rows by importance queries and projected keys.
 *
 * @param queries (group, 16)
 */
export function butlerReference(
  sizes: PolicySizes,
  keys: HeadData["keys"],
  queries: readonly (readonly number[])[],
  matrix: readonly number[],
  kept: keyof typeof KEPT_KEYS,
): PolicyRows {
  return between(sizes, keys.length, (position) => {
    const key = projectReference(keys[position]!, matrix, 16);
    return scoreReference(queries, KEPT_KEYS[kept](key), 1);
  });
}

/** Pages of 16 rows by what their bounds allow; the page of the newest row is always there. */
export function questReference(sizes: PolicySizes, { queries, keys }: HeadData): PolicyRows {
  const newest = Math.floor((keys.length - 1) / 16);
  const total = sizes.sinks + sizes.window + sizes.budget;
  const bound = (page: number, pick: (...values: number[]) => number) => {
    const rows = keys.slice(page * 16, page * 16 + 16);
    return rows[0]!.map((_, d) => pick(...rows.map((row) => row[d]!)));
  };
  return {
    prefix: 0,
    windowStart: newest * 16,
    from: 0,
    scores: Array.from(
      { length: newest },
      (_, page) => pageScoreReference(queries, bound(page, Math.min), bound(page, Math.max)),
    ),
    unitRows: 16,
    budget: Math.max(3, Math.floor(total / 16)) - 1,
  };
}

/** Attention that the rows of one KV head have received: the sum over its group's queries. */
export class ReceivedAttention {
  readonly mass: number[] = [];
  readonly gone = new Set<number>();

  /** Adds what the queries of a row at `position` give to the rows that it attends to. */
  add(
    queries: readonly (readonly number[])[],
    keys: readonly (readonly number[])[],
    attended: readonly number[],
  ): void {
    const rows = attended.map((position) => keys[position]!);
    for (const query of queries) {
      const lse = lseReference(query, rows);
      attended.forEach((position, i) => {
        const dot = query.reduce((sum, x, d) => sum + x * rows[i]![d]!, 0);
        const weight = Math.exp(dot / Math.sqrt(query.length) - lse);
        this.mass[position] = (this.mass[position] ?? 0) + weight;
      });
    }
  }

  /** Half of the rows are the newest, half those of the others with the most attention. */
  h2o(sizes: PolicySizes, n: number): PolicyRows {
    const total = sizes.sinks + sizes.window + sizes.budget;
    const heavy = Math.floor(total / 2);
    const windowStart = n - (total - heavy);
    const scores = Array.from(
      { length: windowStart },
      (_, position) => this.gone.has(position) ? -1e30 : this.mass[position] ?? 0,
    );
    return { prefix: 0, windowStart, from: 0, scores, unitRows: 1, budget: heavy };
  }

  /** The window is the newest rows; of the others those with the most, averaged over neighbours. */
  snapkv(sizes: PolicySizes, n: number): PolicyRows {
    const windowStart = n - sizes.window;
    const mass = Array.from({ length: windowStart }, (_, position) => this.mass[position] ?? 0);
    const budget = sizes.sinks + sizes.budget;
    return { prefix: 0, windowStart, from: 0, scores: poolReference(mass), unitRows: 1, budget };
  }

  /** Rows from 0 to `to` that were not chosen never are again. */
  evict(to: number, chosen: readonly number[]): void {
    for (let position = 0; position < to; position++) {
      if (!chosen.includes(position)) this.gone.add(position);
    }
  }
}
