/**
 * Importance queries that turn with the position of their row.
 *
 * A producer sees a hidden state, which does not say where its row is, while the queries that it
 * stands for are rotated by RoPE. So pairs of importance dimensions may follow a pair of the model's
 * own: the producer gives the query before RoPE, and it is turned as the model turns its queries. The
 * keys need nothing, since they are projected after RoPE.
 *
 * @module
 */
import { IMPORTANCE_DIM } from "./shape.ts";

/** Pairs of importance dimensions: (0, 1), (2, 3), ... */
export const IMPORTANCE_PAIRS = IMPORTANCE_DIM / 2;

/** A pair that stands still. */
export const STILL = -1;

/** How the importance queries of some layers turn. */
export interface Turning {
  /** (layers, KV heads, 8): the pair of RoPE that a pair follows, or {@linkcode STILL}. */
  readonly turns: Int32Array<ArrayBuffer>;
  /** (pairs of RoPE) radians a token. */
  readonly frequencies: readonly number[];
}

/** Layers whose queries all stand still. */
export function still(layers: number, numKvHeads: number): Turning {
  const turns = new Int32Array(layers * numKvHeads * IMPORTANCE_PAIRS).fill(STILL);
  return { turns, frequencies: [] };
}

/**
 * Turns the importance queries of a row.
 *
 * @param queries (layers, query heads, 16), changed in place
 * @param at Where they begin in the list.
 * @param group Query heads of a KV head.
 * @param position Of the row; a negative one turns back.
 */
export function turnQueries(
  queries: { [index: number]: number },
  at: number,
  { turns, frequencies }: Turning,
  group: number,
  position: number,
): void {
  for (let list = 0; list < turns.length / IMPORTANCE_PAIRS; list++) {
    for (let pair = 0; pair < IMPORTANCE_PAIRS; pair++) {
      const turn = turns[list * IMPORTANCE_PAIRS + pair]!;
      if (turn === STILL) continue;
      const angle = position * frequencies[turn]!;
      const cos = Math.cos(angle);
      const sin = Math.sin(angle);
      for (let head = 0; head < group; head++) {
        const a = at + (list * group + head) * IMPORTANCE_DIM + 2 * pair;
        const x = queries[a]!;
        const y = queries[a + 1]!;
        queries[a] = x * cos - y * sin;
        queries[a + 1] = x * sin + y * cos;
      }
    }
  }
}

/** Dimensions of a head that a pair of RoPE rotates. */
export function ropePair(
  { dimensions, pairing }: { readonly dimensions: number; readonly pairing: "half" | "adjacent" },
  pair: number,
): readonly [number, number] {
  return pairing === "half" ? [pair, pair + dimensions / 2] : [2 * pair, 2 * pair + 1];
}
