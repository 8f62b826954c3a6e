/**
 * Host partner of `shaders/matmul.wgsl`: products of a stored weight matrix with one or many token
 * rows.
 *
 * @module
 */
import type { WeightType } from "../../model/types.ts";
import type { Kernel, Kernels, KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { weightDefines } from "../weight_layout.ts";

/** Static sizes of one product. */
export const MATMUL_PARAMS = defineParams("MatmulParams", {
  /** Rows of y that this matrix makes. */
  rows: "u32",
  /** Units of eight weights in a row. */
  units: "u32",
  /** vec4u of a row. */
  row_vecs: "u32",
  /** Where its first row lies in a row of y. */
  row_offset: "u32",
  /** f32 in a row of y. */
  y_stride: "u32",
  /** vec4f in a row of x. */
  x_stride: "u32",
});

/**
 * What happens with a sum: stored, added to what is there, gate and up rows of one matrix combined,
 * or multiplied with the SiLU of what is there.
 */
export type MatmulEpilogue = "store" | "add" | "swiglu" | "gated";

/** What is compiled in. */
export interface MatmulVariant {
  readonly type: WeightType;
  readonly epilogue: MatmulEpilogue;
  readonly bias: boolean;
  /** Lanes of a workgroup. */
  readonly lanes: number;
  /** Rows and tokens of a tile. */
  readonly rows: number;
  readonly tokens: number;
  readonly subgroups: boolean;
}

/** Name of a variant. */
function matmulVariantName(v: MatmulVariant): string {
  return `matmul_${v.type}_${v.epilogue}${
    v.bias ? "_bias" : ""
  }_r${v.rows}_t${v.tokens}_wg${v.lanes}${v.subgroups ? "_sg" : ""}`;
}

/** Source, defines and bindings of a variant. */
export function matmulSpec(v: MatmulVariant): KernelSpec {
  const outRows = v.epilogue === "swiglu" ? v.rows / 2 : v.rows;
  const sums = v.rows * v.tokens;
  if (sums % 4 !== 0) {
    throw new RangeError(`a tile of ${v.rows} x ${v.tokens} sums is no whole quads`);
  }
  return {
    shader: "matmul",
    variant: matmulVariantName(v),
    defines: {
      ...weightDefines(v.type),
      EPILOGUE: v.epilogue,
      BIAS: v.bias,
      WG: v.lanes,
      ROWS: v.rows,
      OUT_ROWS: outRows,
      TOKENS: v.tokens,
      SUBGROUPS: v.subgroups,
      SUMS: sums,
      SUM_QUADS: sums / 4,
      PARTIAL_QUADS: sums / 4 * v.lanes,
    },
    bindings: ["read", "read", "write", ...(v.bias ? ["read"] as const : []), "uniform", "step"],
    structs: [MATMUL_PARAMS, STEP_PARAMS],
  };
}

/** Compiles a variant. */
export function compileMatmul(kernels: Kernels, variant: MatmulVariant): Promise<Kernel> {
  return kernels.compile(matmulSpec(variant));
}

/** Workgroups for `rows` rows of y and `tokens` token rows. */
export function matmulWorkgroups(v: MatmulVariant, rows: number, tokens: number): number {
  const outRows = v.epilogue === "swiglu" ? v.rows / 2 : v.rows;
  return Math.ceil(rows / outRows) * Math.ceil(tokens / v.tokens);
}
