/**
 * The seam between the scheduler's side of the engine (plain TypeScript, no GPU object) and the
 * runner, which is the only place that encodes passes.
 *
 * @module
 */
import type { TokenLogprob } from "./types.ts";

/**
 * A sparse change of one logit before sampling: `l += bias`, then
 * `l = l > 0 ? l / scale : l * scale`, then `l += add`. `scale` is the repetition penalty for this
 * token (1: none); `add` is what frequency and presence penalty take off, and -Infinity there bans
 * the token.
 */
export interface LogitAdjustment {
  readonly id: number;
  readonly bias: number;
  readonly scale: number;
  readonly add: number;
}

/** How the next token of one row is chosen. */
export interface SampleSpec {
  /** 0 is greedy. */
  readonly temperature: number;
  readonly topK: number;
  readonly typicalP: number;
  readonly topP: number;
  readonly minP: number;
  readonly seed: number;
  /** Index of the token within the answer: the random number depends on seed and this alone. */
  readonly step: number;
  readonly adjustments: readonly LogitAdjustment[];
  /** Take this token whatever the logits say (teacher forcing, prompt scoring); null samples. */
  readonly forced: number | null;
  /** Alternatives to report with the log-probability, 0..20; null reports none. */
  readonly logprobs: number | null;
}

/** The choice for one row. */
export interface Sampled {
  readonly token: number;
  readonly logprob: TokenLogprob | null;
}

/** One row of a decode step: the newest token of one sequence. */
export interface DecodeRow {
  /** Slot of the sequence, 0 .. maxSequences - 1. */
  readonly slot: number;
  /** Index of the token in its sequence; KV rows 0 .. position - 1 are written. */
  readonly position: number;
  readonly token: number;
  readonly sample: SampleSpec;
}

/** A run of prompt tokens of one sequence. */
export interface PrefillChunk {
  readonly slot: number;
  /** Position of the first token. */
  readonly start: number;
  readonly tokens: readonly number[];
  /** Set on the last chunk: how the first token of the answer is chosen. */
  readonly sample: SampleSpec | null;
  /**
   * Ask for log-probabilities of the prompt: `targets[i]` is the token that follows `tokens[i]`
   * (one shorter than `tokens` on the last chunk), `top` the number of alternatives.
   */
  readonly scoring: { readonly targets: readonly number[]; readonly top: number } | null;
}

/** What a prefill chunk gives back. */
export interface PrefillResult {
  readonly sampled: Sampled | null;
  /** One entry for each target. */
  readonly scores: readonly TokenLogprob[];
}

/** Runs the model. Every call is one or more submissions and returns when they are done. */
export interface Runner {
  /** Rows are distinct sequences, at most `maxSequences`. KV pages must be reserved before. */
  decode(rows: readonly DecodeRow[]): Promise<readonly Sampled[]>;
  prefill(chunk: PrefillChunk): Promise<PrefillResult>;
}
