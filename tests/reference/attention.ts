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

/** What attention over some of the keys leaves behind for a merge with the others. */
export interface PartialResult {
  /** (headDim) values weighted by e^(score - maximum) */
  readonly sums: readonly number[];
  /** Largest score. */
  readonly maximum: number;
  /** Sum of the weights. */
  readonly normaliser: number;
}

/** {@linkcode attentionReference} before the division. Over no keys, the maximum is -Infinity. */
export function partialReference(
  query: readonly number[],
  keys: readonly (readonly number[])[],
  values: readonly (readonly number[])[],
): PartialResult {
  const scores = keys.map((key) =>
    key.reduce((sum, value, d) => sum + value * query[d]!, 0) / Math.sqrt(query.length)
  );
  const maximum = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const weights = scores.map((score) => Math.exp(score - maximum));
  return {
    sums: query.map((_, d) => weights.reduce((sum, weight, p) => sum + weight * values[p]![d]!, 0)),
    maximum,
    normaliser: weights.reduce((sum, weight) => sum + weight, 0),
  };
}

/** Joins the results over two sets of keys; either may be empty. */
export function joinReference(a: PartialResult, b: PartialResult): PartialResult {
  const maximum = Math.max(a.maximum, b.maximum);
  if (maximum === -Infinity) return a;
  const [fa, fb] = [Math.exp(a.maximum - maximum), Math.exp(b.maximum - maximum)];
  return {
    sums: a.sums.map((sum, d) => fa * sum + fb * b.sums[d]!),
    maximum,
    normaliser: fa * a.normaliser + fb * b.normaliser,
  };
}

/** What part of a query head's attention each key gets. */
export function weightsReference(
  query: readonly number[],
  keys: readonly (readonly number[])[],
): number[] {
  const { maximum, normaliser } = partialReference(query, keys, keys);
  return keys.map((key) => {
    const score = key.reduce((sum, value, d) => sum + value * query[d]!, 0);
    return Math.exp(score / Math.sqrt(query.length) - maximum) / normaliser;
  });
}

/** Logarithm of the sum of e^score over all keys. */
export function logSum(result: PartialResult): number {
  return result.maximum + Math.log(result.normaliser);
}
