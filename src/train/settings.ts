/** Settings of a training, and the rate of each step. @module */
import type { MeasureSettings } from "./measure.ts";
import type { Loss } from "./objective.ts";

/** Everything that decides on the result, beside model and text. */
export interface TrainSettings {
  /** Layers from one producer to the next. */
  readonly stride: number;
  /** Width of a producer between its two products. */
  readonly inner: number;
  readonly loss: Loss;
  /** Rows that are no candidates: the first, and the most recent. */
  readonly sinks: number;
  readonly window: number;
  /** Tokens of a window of text, and rows of it whose attention is learnt. */
  readonly tokens: number;
  readonly rows: number;
  /** Windows to train on, and windows to measure on. */
  readonly windows: number;
  readonly heldOut: number;
  /** Tokens of a window to measure on; rows of its second half are measured. */
  readonly heldOutTokens: number;
  /** Rows of those windows, and of those that large budgets are measured on. */
  readonly heldOutRows: number;
  /**
   * Tokens of as many windows that large budgets are measured on; rows of its second half. In short
   * windows the last rows of a large budget are all that is left, and add nothing.
   */
  readonly tableTokens: number;
  /** How often each window is seen. */
  readonly epochs: number;
  /** Highest rate of learning. */
  readonly rate: number;
  /** Part of the steps in which the rate rises to it. */
  readonly warmup: number;
  readonly clip: number;
  readonly decay: number;
  readonly seed: number;
}

/** Settings that were best on the default model. */
export const TRAIN_DEFAULTS: TrainSettings = {
  stride: 4,
  inner: 128,
  loss: "tail",
  sinks: 4,
  window: 32,
  tokens: 2048,
  rows: 160,
  windows: 128,
  heldOut: 8,
  heldOutTokens: 1024,
  heldOutRows: 64,
  tableTokens: 2048,
  epochs: 4,
  rate: 2e-2,
  warmup: 0.1,
  clip: 10,
  decay: 0.3,
  seed: 0,
};

/** Parts of the rate with which values of each kind learn. */
export interface RateParts {
  readonly up: number;
  readonly down: number;
  readonly keys: number;
  /** Gain and bias. */
  readonly norm: number;
}

/**
 * The features that the closed form finds are good: where they learn as fast as the rest, the first
 * steps spoil them. Key projections have to move, to what can be predicted.
 */
export const RATE_PARTS: RateParts = { up: 0.1, down: 1, keys: 1, norm: 0.1 };

/** Rows that are chosen where recall is measured. */
export const MEASURED_BUDGET = 64;
/** Counts of rows for which the covered mass is measured. */
export const MEASURED_COUNTS: readonly number[] = [
  4,
  8,
  16,
  32,
  64,
  128,
  256,
  512,
  768,
  1024,
];

/**
 * What is kept from an earlier row while it is measured how restless a head is: 256 rows in all with
 * the default sinks and window, for as many steps as rows of the windows for large budgets lie apart.
 */
export const KEPT = { budget: 220, steps: 16 } as const;

/** Held-out windows that recall is measured on before training and after each epoch. */
export const QUICK_WINDOWS = 2;

/** What is measured on held-out windows. */
export function measureSettings(
  { sinks, window }: Pick<TrainSettings, "sinks" | "window">,
): MeasureSettings {
  return { sinks, window, budget: MEASURED_BUDGET, counts: MEASURED_COUNTS, kept: KEPT };
}

/** Mean budgets that the table of a predictor has points for. */
export const TABLE_MEANS: readonly number[] = [16, 28, 60, 92, 156, 220, 348, 476];

/** Rate of a step: rises evenly, then falls along half a cosine. Steps count from 0. */
export function rateAt(
  { rate, warmup }: Pick<TrainSettings, "rate" | "warmup">,
  step: number,
  steps: number,
): number {
  const rising = Math.max(1, Math.round(warmup * steps));
  if (step < rising) return rate * (step + 1) / rising;
  const part = (step - rising) / Math.max(1, steps - rising);
  return rate * (1 + Math.cos(Math.PI * part)) / 2;
}
