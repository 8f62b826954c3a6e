/** Policies without scores: everything, or what a table of roles says. @module */
import type { Policy, StepRecipe } from "./types.ts";

/** Every row. */
export const DENSE: Policy = {
  name: "dense",
  store: "none",
  scores: "none",
  once: false,
  recipe: () => "all",
};

/**
 * Sinks and the most recent rows (StreamingLLM, arXiv 2309.17453), positions as they are. Its
 * layers are `window` layers, so it has nothing to select.
 */
export const STREAMING: Policy = {
  name: "streaming",
  store: "none",
  scores: "none",
  once: false,
  recipe: ({ sinks, window }, budgets, n): StepRecipe | "all" =>
    windowRecipe(sinks, window, budgets.length, n),
};

/**
 * Sinks and the `window` most recent rows.
 *
 * @param numKvHeads Length of the budgets, which are all 0.
 */
export function windowRecipe(
  sinks: number,
  window: number,
  numKvHeads: number,
  n: number,
): StepRecipe | "all" {
  const prefix = Math.min(sinks, n);
  const windowStart = Math.max(prefix, n - window);
  if (windowStart === prefix) return "all";
  const budgets = new Array<number>(numKvHeads).fill(0);
  return { prefix, windowStart, from: prefix, to: prefix, unit: 1, budgets };
}
