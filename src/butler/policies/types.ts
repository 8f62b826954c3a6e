/**
 * A selection policy: which past rows each KV head attends to at a decode step. A policy is pure: it
 * says what is kept of every row, how candidates are scored, and how the rows of a step are made up.
 * The scores themselves, the choice and attention are the same code for all of them, so that a
 * comparison of policies compares selections and nothing else.
 *
 * @module
 */
import type { KvSettings, PolicyName } from "../settings_types.ts";

/**
 * What the importance store keeps of every row on the device: nothing; 16 values of its key; minima
 * and maxima of the keys of each page of 16 rows; the attention it has received so far.
 */
export type StoreKind = "none" | "projected" | "bounds" | "mass";

/**
 * How candidates are scored: not at all; by the projected keys; by q . k itself; by the bounds of
 * pages; by the attention they have received; by its average over five neighbours; by the projected
 * keys and queries that a predictor made in an earlier layer.
 */
export type ScoreKind =
  | "none"
  | "projected"
  | "exact"
  | "pages"
  | "mass"
  | "pooled"
  | "predicted";

/** Rows of a unit that is chosen as one: a row, or a page of 16. */
export type SelectionUnit = 1 | 16;

/** What a layer attends to at a step with a new selection. Positions; `n` rows are there. */
export interface StepRecipe {
  /** Rows 0 .. prefix - 1 are attended. */
  readonly prefix: number;
  /** Rows windowStart .. n - 1 are attended. */
  readonly windowStart: number;
  /** Candidates are units from .. to - 1; all of them lie between prefix and window. */
  readonly from: number;
  readonly to: number;
  readonly unit: SelectionUnit;
  /** (KV heads) units that are chosen: those with the largest scores, the older of equals. */
  readonly budgets: readonly number[];
}

/** One rule. */
export interface Policy {
  readonly name: PolicyName;
  readonly store: StoreKind;
  readonly scores: ScoreKind;
  /** The first selection is the last one. */
  readonly once: boolean;
  /**
   * The rows of a `selected` layer when there are `n` rows, the newest included; `all` where the
   * settings cover every row, whatever the policy's own rule.
   *
   * @param budgets (KV heads) rows beside sinks and window, of the layer at this step.
   */
  recipe(settings: KvSettings, budgets: readonly number[], n: number): StepRecipe | "all";
}
