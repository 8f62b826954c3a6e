/** Host partner of `shaders/importance_produce.wgsl`: importance queries from hidden states. @module */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";

/** Sizes of one product. */
export const PRODUCE_PARAMS = defineParams("ProduceParams", {
  /** Rows of the matrix; columns, and vec4f of them. */
  matrix_rows: "u32",
  width: "u32",
  quads: "u32",
  /** vec4f of a row of the input. */
  input_stride: "u32",
  /** Rows of the matrix that belong to one layer, and f32 from layer to layer in the result. */
  layer_rows: "u32",
  layer_stride: "u32",
  /** Added to the variance. */
  eps: "f32",
  /** Pairs that RoPE rotates, and what takes the factor out of their cosines and sines. */
  pairs: "u32",
  turn_scale: "f32",
});

/** What is compiled in. */
export interface ImportanceProduceVariant {
  readonly stage: "features" | "queries";
  /** Rows of the matrix that a workgroup makes; even with `queries`. */
  readonly rows: number;
  readonly lanes: number;
  /** The workgroup is one subgroup. */
  readonly subgroups: boolean;
}

/**
 * Source, defines and bindings: weights, input, out, with `features` gain and bias, with `queries` turns
 * and angles, params, step.
 *
 * @throws {RangeError} If a pair of queries would be made by two workgroups.
 */
export function importanceProduceSpec(v: ImportanceProduceVariant): KernelSpec {
  if (v.stage === "queries" && v.rows % 2 !== 0) {
    throw new RangeError(`${v.rows} rows are no pairs`);
  }
  return {
    shader: "importance_produce",
    variant: `importance_produce_${v.stage}_r${v.rows}_wg${v.lanes}${v.subgroups ? "_sg" : ""}`,
    defines: {
      STAGE: v.stage,
      ROWS: v.rows,
      WG: v.lanes,
      SUBGROUPS: v.subgroups,
      STILL: "0xffffffffu",
      PARTIALS: Math.max(2, v.rows) * v.lanes,
    },
    bindings: [
      "read",
      "read",
      "write",
      "read",
      "read",
      "uniform",
      "step",
    ],
    structs: [PRODUCE_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `numRows` rows of a step. */
export function importanceProduceWorkgroups(
  v: ImportanceProduceVariant,
  matrixRows: number,
  numRows: number,
): number {
  return Math.ceil(matrixRows / v.rows) * numRows;
}
