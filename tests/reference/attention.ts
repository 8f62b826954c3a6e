/** Causal attention in plain f64: what `shaders/attention.wgsl` must agree with. @module */

/**
 * Weighted sum of values for one query head.
 *
 * @param query (headDim)
 * @param keys (positions that the query may see, headDim)
 * @param values (positions that the query may see, headDim)
 */
export function attentionReference(
  query: readonly number[],
  keys: readonly (readonly number[])[],
  values: readonly (readonly number[])[],
): number[] {
  const scores = keys.map((key) =>
    key.reduce((sum, value, d) => sum + value * query[d]!, 0) / Math.sqrt(query.length)
  );
  const highest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const weights = scores.map((score) => Math.exp(score - highest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return query.map((_, d) =>
    weights.reduce((sum, weight, p) => sum + weight * values[p]![d]!, 0) / total
  );
}
