/** Scores of cached rows in plain f64. @module */

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

/**
 * Largest dot product of a key with the queries of its group, times `scale`.
 *
 * @param queries (group, dimensions)
 * @param key (dimensions)
 */
export function scoreReference(
  queries: readonly (readonly number[])[],
  key: readonly number[],
  scale: number,
): number {
  return Math.max(...queries.map((query) => dot(query, key) * scale));
}

/**
 * A vector times a matrix.
 *
 * @param vector (rows)
 * @param matrix (rows, columns)
 */
export function projectReference(
  vector: readonly number[],
  matrix: readonly number[],
  columns: number,
): number[] {
  return Array.from(
    { length: columns },
    (_, c) => vector.reduce((sum, value, d) => sum + value * matrix[d * columns + c]!, 0),
  );
}

/** A key as bytes with one scale keep it. */
export function byteKeyReference(key: readonly number[]): {
  readonly scale: number;
  readonly bytes: readonly number[];
  readonly values: readonly number[];
} {
  const scale = key.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127;
  const bytes = key.map((x) => scale === 0 ? 128 : Math.floor(x / scale + 128.5));
  return { scale, bytes, values: bytes.map((byte) => (byte - 128) * scale) };
}

/**
 * Bound of a page: no key between the minima and maxima has a larger dot product with a query.
 *
 * @param queries (group, dimensions)
 */
export function pageScoreReference(
  queries: readonly (readonly number[])[],
  minima: readonly number[],
  maxima: readonly number[],
): number {
  return Math.max(
    ...queries.map((query) =>
      query.reduce((sum, q, d) => sum + Math.max(q * minima[d]!, q * maxima[d]!), 0)
    ),
  );
}

/** Average of five neighbours, with zeros beyond the ends. */
export function poolReference(values: readonly number[]): number[] {
  return values.map((_, i) =>
    [-2, -1, 0, 1, 2].reduce((sum, step) => sum + (values[i + step] ?? 0), 0) / 5
  );
}
