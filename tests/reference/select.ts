/** Picking the best of a list of scores, as plainly as possible. @module */

/**
 * The `budget` candidates with the largest scores, of equal ones the lowest, in ascending order.
 *
 * @param scores Entry i belongs to candidate `from + i`; NaN counts as -Infinity, -0 as 0.
 */
export function selectReference(
  scores: readonly number[],
  from: number,
  budget: number,
): number[] {
  const value = (i: number) => Number.isNaN(scores[i]!) ? -Infinity : scores[i]!;
  return scores.map((_, i) => i)
    .sort((a, b) => value(a) === value(b) ? a - b : value(a) < value(b) ? 1 : -1)
    .slice(0, budget)
    .sort((a, b) => a - b)
    .map((i) => from + i);
}

/** Larger score, larger whole number, as `shaders/common/score_keys.wgsl` has it. */
export function scoreKey(score: number): number {
  if (Number.isNaN(score)) return scoreKey(-Infinity);
  if (score === 0) return 0x80000000;
  const bits = new Uint32Array(Float32Array.of(score).buffer)[0]!;
  return bits >= 0x80000000 ? 0xffffffff - bits : bits + 0x80000000;
}
