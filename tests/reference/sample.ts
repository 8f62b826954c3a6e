/**
 * Sampling in plain f64, by sorting: what `shaders/sample_*.wgsl` must agree with.
 *
 * @module
 */
import type { LogitAdjustment, SampleSpec } from "../../src/engine/runner_types.ts";

/** A token that a filter has left, with its adjusted logit. */
export interface Candidate {
  readonly id: number;
  readonly logit: number;
}

/** Result of {@linkcode filterReference}. */
export interface Filtered {
  /** In the order of ids. */
  readonly kept: readonly Candidate[];
  /**
   * How little separates the last candidate that is kept from one that is not, in logits (for
   * typical in distances), where they are not equal. Where it is tiny, rounding may swap them.
   */
  readonly margin: number;
}

/** NaN counts as banned; the rest is clamped to +-1e30. */
export function cleanLogit(logit: number): number {
  if (Number.isNaN(logit)) return -1e30;
  return Math.max(-1e30, Math.min(1e30, logit)) + 0;
}

/** log(sum(exp(logits))). */
export function logSumExp(logits: Iterable<number>): number {
  const values = [...logits];
  const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

/** Log-probabilities of the raw logits. */
export function logprobsReference(logits: ArrayLike<number>): number[] {
  const clean = Array.from(logits, cleanLogit);
  const total = logSumExp(clean);
  return clean.map((logit) => logit - total);
}

/** Ids of the n largest values, the lowest id first among equals. */
export function topReference(values: readonly number[], n: number): number[] {
  return values.map((_, id) => id).sort((a, b) => values[b]! - values[a]! || a - b).slice(0, n);
}

/** Logits after the adjustments. */
export function adjustReference(
  logits: ArrayLike<number>,
  adjustments: readonly LogitAdjustment[],
): number[] {
  const out = Array.from(logits, cleanLogit);
  for (const { id, bias, scale, add } of adjustments) {
    const logit = out[id]! + bias;
    const scaled = logit > 0 ? logit / scale : logit * scale;
    out[id] = add === -Infinity ? -1e30 : cleanLogit(scaled + add);
  }
  return out;
}

function softmax(candidates: readonly Candidate[], temperature = 1): number[] {
  const largest = candidates.reduce((a, { logit }) => Math.max(a, logit), -Infinity);
  const weights = candidates.map(({ logit }) => Math.exp((logit - largest) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

/** The shortest head of a sorted list whose mass reaches p. */
function takeMass(
  sorted: readonly Candidate[],
  probability: ReadonlyMap<number, number>,
  p: number,
): Candidate[] {
  const kept: Candidate[] = [];
  let sum = 0;
  for (const candidate of sorted) {
    kept.push(candidate);
    sum += probability.get(candidate.id)!;
    if (sum >= p) break;
  }
  return kept;
}

/**
 * Top-k, typical, top-p and min-p, in this order, each on what the one before left.
 *
 * @param shift Added to both masses, to see whether a decision hangs on rounding.
 */
export function filterReference(
  adjusted: readonly number[],
  spec: SampleSpec,
  shift = 0,
): Filtered {
  let kept: Candidate[] = adjusted.map((logit, id) => ({ id, logit }));
  let margin = Infinity;
  const probabilities = () => {
    const values = softmax(kept);
    return new Map(kept.map(({ id }, index) => [id, values[index]!]));
  };
  const byLogit = (a: Candidate, b: Candidate) => b.logit - a.logit || a.id - b.id;
  if (spec.topK > 0) {
    const sorted = kept.toSorted(byLogit);
    kept = sorted.slice(0, spec.topK);
    const gap = kept.at(-1)!.logit - (sorted[spec.topK]?.logit ?? -Infinity);
    // Logits that were not adjusted are the same numbers here and there.
    if (gap > 0 && spec.adjustments.length > 0) margin = Math.min(margin, gap);
  }
  if (spec.typicalP < 1) {
    const probability = probabilities();
    let entropy = 0;
    for (const p of probability.values()) if (p > 0) entropy -= p * Math.log(p);
    const total = logSumExp(kept.map(({ logit }) => logit));
    const distance = ({ logit }: Candidate) => Math.abs(total - logit - entropy);
    const sorted = kept.toSorted((a, b) => distance(a) - distance(b) || a.id - b.id);
    kept = takeMass(sorted, probability, spec.typicalP + shift);
    // Equal logits tie exactly; others on both sides of the entropy may seem to.
    const last = kept.at(-1)!;
    for (const other of sorted) {
      if (other.logit !== last.logit) {
        margin = Math.min(margin, Math.abs(distance(other) - distance(last)));
      }
    }
  }
  if (spec.topP < 1) kept = takeMass(kept.toSorted(byLogit), probabilities(), spec.topP + shift);
  if (spec.minP > 0) {
    const largest = kept.reduce((a, { logit }) => Math.max(a, logit), -Infinity);
    const least = largest + Math.log(spec.minP);
    for (const { logit } of kept) {
      if (logit !== largest) margin = Math.min(margin, Math.abs(logit - least));
    }
    kept = kept.filter(({ logit }) => logit >= least || logit === largest);
  }
  return { kept: kept.toSorted((a, b) => a.id - b.id), margin };
}

/** Where each id lies in the cumulative distribution, in the order of ids. */
export function intervalsReference(
  kept: readonly Candidate[],
  temperature: number,
): Map<number, readonly [start: number, end: number]> {
  const probability = softmax(kept, temperature);
  let sum = 0;
  return new Map(kept.map(({ id }, index) => {
    const start = sum;
    sum += probability[index]!;
    return [id, [start, sum]];
  }));
}

/** How far a random number is from choosing an id: 0 if it does, infinite if the id is not kept. */
export function missReference(
  intervals: ReadonlyMap<number, readonly [number, number]>,
  id: number,
  random: number,
): number {
  const [start, end] = intervals.get(id) ?? [Infinity, Infinity];
  if (start === end) return Infinity;
  return Math.max(0, start - random, random - end);
}
