/** Host partner of `shaders/neighbours.wgsl`: rows that follow runs of chosen rows. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_MODES, LIST_PARAMS } from "./list_params.ts";

/** Bit of a recipe's fourth word: the slot wants neighbours. */
export const WANTS_NEIGHBOURS = 1;

/**
 * Rows of a budget up to which one lane can make a list: llvmpipe ends loops after 65,535 turns, and
 * a list takes up to three for each row of the budget.
 */
export const MOST_NEIGHBOUR_BUDGET = 16384;

/** Source, defines and bindings for so many lanes. One workgroup a row and KV head. */
export function neighboursSpec(lanes: number): KernelSpec {
  return {
    shader: "neighbours",
    variant: `neighbours_wg${lanes}`,
    defines: { WG: lanes, PAGES_MODE: `${LIST_MODES.pages}u` },
    bindings: ["read", "read", "read", "write", "write", "write", "write", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}
