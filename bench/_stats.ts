/** Medians and percentiles of repeated measurements. @module */

/** What is reported of a list of times. */
export interface Summary {
  readonly min: number;
  readonly median: number;
  readonly mean: number;
  readonly p95: number;
  readonly p99: number;
  readonly count: number;
}

/**
 * Summarises times. Percentiles are the nearest rank.
 *
 * @throws {RangeError} If there is none.
 */
export function summarize(times: readonly number[]): Summary {
  if (times.length === 0) throw new RangeError("nothing was measured");
  const sorted = [...times].sort((a, b) => a - b);
  const rank = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
  return {
    min: sorted[0]!,
    median: rank(0.5),
    mean: times.reduce((sum, time) => sum + time, 0) / times.length,
    p95: rank(0.95),
    p99: rank(0.99),
    count: sorted.length,
  };
}

/** The standard error of the mean; of a single value it is not known, and not finite. */
export function meanError(values: readonly number[]): number {
  const { mean, count } = summarize(values);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (count - 1) / count);
}

/** Keeps so many significant digits: a time is no better known than that. */
export function round(value: number, digits = 4): number {
  return Number(value.toPrecision(digits));
}
