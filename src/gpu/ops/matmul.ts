/**
 * Host partner of `shaders/matmul.wgsl` and `shaders/matmul_lanes.wgsl`: products of a stored weight
 * matrix with one or many token rows.
 *
 * @module
 */
import type { WeightType } from "../../model/types.ts";
import type { BindingKind, Kernel, Kernels, KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";
import type { Defines } from "../preprocessor.ts";
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
  /** With a norm of x: vec4f of its squares, columns, and eps. */
  square_vecs: "u32",
  norm_width: "u32",
  norm_eps: "f32",
});

/**
 * What happens with a sum: stored, added to what is there, gate and up rows of one matrix combined,
 * or multiplied with the SiLU of what is there.
 */
export type MatmulEpilogue = "store" | "add" | "swiglu" | "gated";

/**
 * Who makes a sum: `rows`, all lanes together, walking along the row of weights; `lanes`, one lane
 * alone, which has tokens of its own (needs subgroups, see {@linkcode canUseLanes}).
 */
export type MatmulForm = "rows" | "lanes";

/**
 * What a product with one token does for a norm between it and the next: `out`, it also writes y
 * times the gain and the squares of its tiles; `in`, it takes these and finishes the norm.
 */
export type MatmulNorm = "none" | "in" | "out";

/** What is compiled in. */
export interface MatmulVariant {
  readonly form: MatmulForm;
  readonly type: WeightType;
  readonly epilogue: MatmulEpilogue;
  readonly bias: boolean;
  /** Lanes of a workgroup. */
  readonly lanes: number;
  /** Rows and tokens of a tile. */
  readonly rows: number;
  readonly tokens: number;
  readonly subgroups: boolean;
  /** `none` by default; the others with the form `rows` and one token only. */
  readonly norm?: MatmulNorm;
}

/** Name of a variant. */
function matmulVariantName(v: MatmulVariant): string {
  const norm = normOf(v) === "none" ? "" : `_norm_${normOf(v)}`;
  return `matmul${v.form === "lanes" ? "_lanes" : ""}_${v.type}_${v.epilogue}${
    v.bias ? "_bias" : ""
  }${norm}_r${v.rows}_t${v.tokens}_wg${v.lanes}${v.subgroups ? "_sg" : ""}`;
}

function normOf(v: MatmulVariant): MatmulNorm {
  return v.norm ?? "none";
}

/** Bindings after weights, x and y, by the name of their place in the shader. */
function extraBindings(v: MatmulVariant): [name: string, kind: BindingKind][] {
  const norm = normOf(v);
  return [
    ...(v.bias ? [["BIAS_AT", "read"] as [string, BindingKind]] : []),
    ...(norm === "in" ? [["SQUARES_AT", "read"] as [string, BindingKind]] : []),
    ...(norm === "out"
      ? [["SQUARES_AT", "write"], ["GAIN_AT", "read"], ["NORMED_AT", "write"]] as const
      : []).map(([name, kind]): [string, BindingKind] => [name, kind]),
    ["PARAMS_AT", "uniform"],
    ["STEP_AT", "step"],
  ];
}

/** Rows of y that a tile makes. */
function outRows(v: MatmulVariant): number {
  return v.epilogue === "swiglu" ? v.rows / 2 : v.rows;
}

/** Source, defines and bindings of a variant. */
export function matmulSpec(v: MatmulVariant): KernelSpec {
  if (normOf(v) !== "none" && (v.form !== "rows" || v.tokens !== 1)) {
    throw new RangeError("only a product with one token can take part in a norm");
  }
  const extra = extraBindings(v);
  return {
    shader: v.form === "rows" ? "matmul" : "matmul_lanes",
    variant: matmulVariantName(v),
    defines: {
      ...weightDefines(v.type),
      EPILOGUE: v.epilogue,
      BIAS: v.bias,
      WG: v.lanes,
      ROWS: v.rows,
      OUT_ROWS: outRows(v),
      TOKENS: v.tokens,
      ...Object.fromEntries(extra.map(([name], index) => [name, 3 + index])),
      ...(v.form === "rows" ? rowsDefines(v) : lanesDefines(v)),
    },
    bindings: ["read", "read", "write", ...extra.map(([, kind]) => kind)],
    structs: [MATMUL_PARAMS, STEP_PARAMS],
  };
}

function rowsDefines(v: MatmulVariant): Defines {
  const sums = v.rows * v.tokens;
  if (sums % 4 !== 0) {
    throw new RangeError(`a tile of ${v.rows} x ${v.tokens} sums is no whole quads`);
  }
  const outs = outRows(v) * v.tokens;
  return {
    OUT: "f32",
    OUT_WIDTH: "1u",
    NORM: normOf(v),
    SUBGROUPS: v.subgroups,
    // Where a shuffle is cheap: a subgroup of eight is a vector of a CPU.
    SHUFFLES: v.subgroups && v.lanes === 8 && outs % 8 === 0,
    OUT_TURNS: Math.floor(outs / 8),
    SUMS: sums,
    SUM_QUADS: sums / 4,
    PARTIAL_QUADS: sums / 4 * v.lanes,
  };
}

function lanesDefines(v: MatmulVariant): Defines {
  const whole = v.subgroups && v.tokens % v.lanes === 0 && outRows(v) % v.lanes === 0;
  if (!whole || outRows(v) % LANES_WIDTH !== 0) {
    throw new RangeError(
      `a tile of ${v.rows} x ${v.tokens} sums cannot be spread over ${v.lanes} lanes`,
    );
  }
  const turns = v.tokens / v.lanes;
  return {
    OUT: `vec${LANES_WIDTH}f`,
    OUT_WIDTH: `${LANES_WIDTH}u`,
    GROUPS: v.rows / v.lanes,
    TURNS: turns,
    SUMS: v.rows * turns,
    OUT_QUADS: outRows(v) / LANES_WIDTH,
  };
}

/** Rows of y that a lane writes at a time in the form `lanes`. */
const LANES_WIDTH = 4;

/** Whether the form `lanes` can write a y of these sizes. */
export function canUseLanes(rows: number, rowOffset: number, yStride: number): boolean {
  return [rows, rowOffset, yStride].every((size) => size % LANES_WIDTH === 0);
}

/** Compiles a variant. */
export function compileMatmul(kernels: Kernels, variant: MatmulVariant): Promise<Kernel> {
  return kernels.compile(matmulSpec(variant));
}

/** Workgroups for `rows` rows of y and `tokens` token rows. */
export function matmulWorkgroups(v: MatmulVariant, rows: number, tokens: number): number {
  return Math.ceil(rows / outRows(v)) * Math.ceil(tokens / v.tokens);
}
