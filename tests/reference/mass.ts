/** Attention that cached rows get, in plain f64. @module */

/** A query head of a row, and how far it sees. */
export interface MassQuery {
  /** (headDim) */
  readonly query: readonly number[];
  readonly position: number;
  /** Logarithm of the sum of exponentials of its scores. */
  readonly lse: number;
}

/**
 * Sum over the queries that see a key of the weight that they give it.
 *
 * @param keys (positions, headDim)
 * @returns (positions)
 */
export function massReference(
  queries: readonly MassQuery[],
  keys: readonly (readonly number[])[],
): number[] {
  return keys.map((key, position) =>
    queries.filter((q) => q.position >= position).reduce((sum, { query, lse }) => {
      const score = key.reduce((dot, value, d) => dot + value * query[d]!, 0) /
        Math.sqrt(key.length);
      return sum + Math.exp(score - lse);
    }, 0)
  );
}

/** Logarithm of the sum of exponentials of a query's scores of the keys that it sees. */
export function lseReference(
  query: readonly number[],
  keys: readonly (readonly number[])[],
): number {
  const scores = keys.map((key) =>
    key.reduce((dot, value, d) => dot + value * query[d]!, 0) / Math.sqrt(key.length)
  );
  const highest = Math.max(...scores);
  return highest + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - highest), 0));
}
