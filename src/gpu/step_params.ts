/** What changes from step to step for every kernel. @module */
import { defineParams } from "./params.ts";

/** Uniform of a step, bound with a dynamic offset. */
export const STEP_PARAMS = defineParams("StepParams", {
  /** Token rows of this step. */
  num_rows: "u32",
  /** First row of this step in the row tables. */
  first_row: "u32",
  /** Splits of the keys in decode attention. */
  num_splits: "u32",
  /** Row whose logits are wanted first (prefill: the last). */
  logits_row: "u32",
});
