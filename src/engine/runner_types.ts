/**
 * The seam between the scheduler's side of the engine (plain TypeScript, no GPU object) and the
 * runner, which is the only place that encodes passes.
 *
 * @module
 */
import type { KvReport } from "../butler/settings_types.ts";
import { type MovedBytes, NOTHING_MOVED } from "../kv/moves.ts";
import type { SequenceNeed } from "../kv/types.ts";
import type { EngineErrorData, TokenLogprob } from "./types.ts";

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
  /**
   * Why this row's sequence cannot go on although the step as a whole went well; its token means
   * nothing then.
   */
  readonly error?: EngineErrorData;
}

/** The rows of a sequence that gave up its slot, and where it was. Belongs to the runner. */
export interface ParkedRows extends Disposable {
  readonly numRows: number;
  /** Bytes of keys and values by tier, as they lie now. */
  readonly tiers: KvReport["tiers"];
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
  /** Tokens that are prefilled in all; absent: this chunk is the last. */
  readonly total?: number;
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

/** What the decode steps of a runner did since it was made, for all sequences alike. */
export interface StepTotals {
  /** Bytes of keys and values that came to the device from below, parked ones included. */
  readonly bytes: number;
  /**
   * Rows that sequences below the device wanted, over KV heads and the layers that count, and those of
   * them that were on the device.
   */
  readonly wanted: number;
  readonly resident: number;
  /** Times that the recall of a sequence was measured. */
  readonly recallSteps: number;
  /** Time that decode steps took to bring rows to the device before they could go on, and such steps. */
  readonly waitedMs: number;
  readonly waitedSteps: number;
  /** What went from tier to tier, of steps of any kind and beside them. */
  readonly moved: MovedBytes;
}

/** Of a runner that has not done anything. */
export const NO_STEPS: StepTotals = {
  bytes: 0,
  wanted: 0,
  resident: 0,
  recallSteps: 0,
  waitedMs: 0,
  waitedSteps: 0,
  moved: NOTHING_MOVED,
};

/** Runs the model. Every call is one or more submissions and returns when they are done. */
export interface Runner {
  /**
   * Prepares for a sequence whose slot has begun in the cache; before its first step there.
   *
   * @throws {Error} If it cannot be run; the slot is to be released then.
   */
  begin(slot: number, need: SequenceNeed): Promise<void>;
  /** What the cache did for the sequence so far; null where there is nothing to tell. */
  report(slot: number): KvReport | null;
  /** What its decode steps did so far. */
  readonly totals: StepTotals;
  /**
   * Copies the rows of a sequence to a lower tier, so that its slot can be released.
   *
   * @returns Null if no tier has room for them.
   */
  park(slot: number): Promise<ParkedRows | null>;
  /** Brings parked rows back into a slot that has begun. What was parked is used up. */
  restore(slot: number, parked: ParkedRows): Promise<void>;
  /** Rows are distinct sequences, at most `maxSequences`. KV pages must be reserved before. */
  decode(rows: readonly DecodeRow[]): Promise<readonly Sampled[]>;
  prefill(chunk: PrefillChunk): Promise<PrefillResult>;
}
