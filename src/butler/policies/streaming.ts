/**
 * StreamingLLM (arXiv 2309.17453): sinks and the most recent rows, positions as they are. Rows that
 * leave the window are let go.
 *
 * @module
 */
import { windowRecipe } from "./common.ts";
import type { Policy, StepRecipe } from "./types.ts";

/** Its layers are `window` layers, so it has nothing to select. */
export const STREAMING: Policy = {
  name: "streaming",
  store: "none",
  scores: "none",
  once: false,
  recipe: ({ sinks, window }, budgets, n): StepRecipe | "all" =>
    windowRecipe(sinks, window, budgets.length, n),
};
