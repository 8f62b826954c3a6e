/** Rotary position embedding: from the many ways a file describes it to angles. @module */

import type { RopeConfig } from "./types.ts";

/** A rule that stretches RoPE beyond the length it was first trained for. */
export type RopeScaling =
  | { readonly type: "none" }
  /** All angles are divided by `factor`. */
  | { readonly type: "linear"; readonly factor: number }
  /** Slow angles are divided by `factor`, fast ones kept, those between blended (Llama 3.1). */
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalContext: number;
  }
  /** The same idea with a ramp over dimensions, and a factor on cos and sin. */
  | {
    readonly type: "yarn";
    readonly factor: number;
    readonly originalContext: number;
    readonly betaFast: number;
    readonly betaSlow: number;
    readonly attentionFactor: number;
    /** Round the ends of the ramp to whole dimensions. */
    readonly truncate: boolean;
  }
  /** Each angle has its own divisor, one set up to the original context and one beyond it. */
  | {
    readonly type: "longrope";
    /** Length dimensions / 2. */
    readonly short: readonly number[];
    /** Length dimensions / 2. */
    readonly long: readonly number[];
    readonly originalContext: number;
    readonly attentionFactor: number;
  };

/** What {@linkcode ropeConfig} is made from. */
export interface RopeSource {
  readonly dimensions: number;
  readonly pairing: RopeConfig["pairing"];
  /** Base of the geometric series of angles. */
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** Extra divisor of each angle, length dimensions / 2 (GGUF's `rope_freqs`). */
  readonly divisors?: readonly number[] | undefined;
  /** Tokens the model was trained for: decides which LongRoPE set is the first choice. */
  readonly contextLength: number;
}

/** Angles with all scaling applied. */
export function ropeConfig(source: RopeSource): RopeConfig {
  const { dimensions, pairing, theta, scaling, divisors, contextLength } = source;
  const plain = Array.from(
    { length: dimensions / 2 },
    (_, i) => theta ** (-2 * i / dimensions) / (divisors?.[i] ?? 1),
  );
  const base = { dimensions, pairing, attentionFactor: 1 };
  switch (scaling.type) {
    case "none":
      return { ...base, inverseFrequencies: plain };
    case "linear":
      return { ...base, inverseFrequencies: plain.map((f) => f / scaling.factor) };
    case "llama3":
      return { ...base, inverseFrequencies: plain.map((f) => llama3(f, scaling)) };
    case "yarn": {
      const { factor, attentionFactor } = scaling;
      const [low, high] = yarnRamp(scaling, dimensions, theta);
      const inverseFrequencies = plain.map((f, i) => {
        const stretched = Math.min(1, Math.max(0, (i - low) / Math.max(0.001, high - low)));
        return f / factor * stretched + f * (1 - stretched);
      });
      return { ...base, inverseFrequencies, attentionFactor };
    }
    case "longrope": {
      const { originalContext, attentionFactor } = scaling;
      const short = plain.map((f, i) => f / scaling.short[i]!);
      const long = plain.map((f, i) => f / scaling.long[i]!);
      if (contextLength <= originalContext) {
        return { ...base, inverseFrequencies: short, attentionFactor };
      }
      return {
        ...base,
        inverseFrequencies: long,
        attentionFactor,
        short: { contextLength: originalContext, inverseFrequencies: short },
      };
    }
    default:
      throw new RangeError(`unknown scaling ${scaling satisfies never}`);
  }
}

/**
 * The angles to use for an engine whose sequences have at most `contextLength` tokens. The choice
 * is made once, because keys in the cache are already rotated.
 */
export function ropeForContext(rope: RopeConfig, contextLength: number): RopeConfig {
  const { short, ...rest } = rope;
  if (!short || contextLength > short.contextLength) return rest;
  return { ...rest, inverseFrequencies: short.inverseFrequencies };
}

/** YaRN's factor on cos and sin for a stretch of `factor`. */
export function yarnAttentionFactor(factor: number, scale = 1): number {
  return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
}

/** LongRoPE's factor on cos and sin. */
export function longropeAttentionFactor(stretch: number, originalContext: number): number {
  return stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(originalContext));
}

function llama3(frequency: number, scaling: Extract<RopeScaling, { type: "llama3" }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling;
  const turns = originalContext * frequency / (2 * Math.PI);
  if (turns < lowFreqFactor) return frequency / factor;
  if (turns > highFreqFactor) return frequency;
  const kept = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return frequency / factor * (1 - kept) + frequency * kept;
}

/** Pairs between which YaRN goes over from keeping to stretching. */
function yarnRamp(
  scaling: Extract<RopeScaling, { type: "yarn" }>,
  dimensions: number,
  theta: number,
): [low: number, high: number] {
  const { originalContext, betaFast, betaSlow, truncate } = scaling;
  const pairWithTurns = (turns: number) =>
    dimensions * Math.log(originalContext / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
  const low = pairWithTurns(betaFast);
  const high = pairWithTurns(betaSlow);
  return [
    Math.max(0, truncate ? Math.floor(low) : low),
    Math.min(dimensions - 1, truncate ? Math.ceil(high) : high),
  ];
}
