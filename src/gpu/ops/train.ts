/**
 * Host partner of the `shaders/train_*.wgsl`: products, losses and updates of a predictor's training.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";

/** Sizes of one batch of products; strides and places are in vec4f. */
export const TRAIN_MATMUL_PARAMS = defineParams("TrainMatmulParams", {
  /** Tiles of 8 x 8 sums. */
  m_tiles: "u32",
  n_tiles: "u32",
  /** Values that a sum has in a segment; a multiple of 4 but in the form TN. */
  depth: "u32",
  segments: "u32",
  batches: "u32",
  a_at: "u32",
  a_stride: "u32",
  a_batch: "u32",
  /** Batches that share a place of a. */
  a_div: "u32",
  a_segment: "u32",
  b_at: "u32",
  b_stride: "u32",
  b_batch: "u32",
  b_div: "u32",
  b_segment: "u32",
  c_at: "u32",
  c_stride: "u32",
  c_batch: "u32",
  alpha: "f32",
});

/** What the kernels between the products know of a training. */
export const TRAIN_PARAMS = defineParams("TrainParams", {
  rows: "u32",
  tokens: "u32",
  hidden: "u32",
  inner: "u32",
  sinks: "u32",
  window: "u32",
  /** KV heads of all layers that are trained at once. */
  kv_lists: "u32",
  /** Of a query head's loss and of a KV head's, divided by how many there are. */
  head_weight: "f32",
  group_weight: "f32",
  tail_weight: "f32",
  /** f32 of all trained values; of those, where gain and bias begin. */
  count: "u32",
  gain_at: "u32",
  bias_at: "u32",
  /** Length that gradients are cut to. */
  clip: "f32",
});

/** One step of the optimiser. */
export const ADAM_PARAMS = defineParams("AdamParams", {
  count: "u32",
  /** Values before this one decay. */
  decay_end: "u32",
  /** Where the second matrix begins, and where key projections end. */
  down_at: "u32",
  keys_end: "u32",
  up_rate: "f32",
  down_rate: "f32",
  keys_rate: "f32",
  norm_rate: "f32",
  decay: "f32",
  beta1: "f32",
  beta2: "f32",
  /** 1 / (1 - beta ** steps) */
  correction1: "f32",
  correction2: "f32",
});

/** Sums of a lane by row and by column. */
export const TRAIN_TILE = 8;
/** Workgroups that add up squares. */
export const CLIP_GROUPS = 64;

/** Which operand of a product is read across its rows. */
export type TrainMatmulForm = "NT" | "NN" | "TN";

/**
 * Bindings: a, b, c, with `causal` the positions, params.
 *
 * @param causal Rows see tokens up to their position only.
 */
export function trainMatmulSpec(
  form: TrainMatmulForm,
  lanes: number,
  causal: boolean,
): KernelSpec {
  return {
    shader: "train_matmul",
    variant: `train_matmul_${form}${causal ? "_causal" : ""}_wg${lanes}`,
    defines: { FORM: form, WG: lanes, CAUSAL: causal },
    bindings: ["read", "read", "write", ...(causal ? ["read"] as const : []), "uniform"],
    structs: [TRAIN_MATMUL_PARAMS],
  };
}

/** What kernels over lists are compiled with. */
export interface TrainListVariant {
  /** Every row so far is a candidate. */
  readonly full: boolean;
  readonly lanes: number;
  /** The workgroup is one subgroup. */
  readonly subgroups: boolean;
}

function listDefines({ full, lanes, subgroups }: TrainListVariant) {
  return { WG: lanes, SUBGROUPS: subgroups, FULL: full };
}

function listName({ full, lanes, subgroups }: TrainListVariant): string {
  return `${full ? "full" : "candidates"}_wg${lanes}${subgroups ? "_sg" : ""}`;
}

/** Bindings: scores, positions, shares, mass, params. */
export function trainTeacherSpec(v: TrainListVariant): KernelSpec {
  return {
    shader: "train_teacher",
    variant: `train_teacher_${listName(v)}`,
    defines: listDefines(v),
    bindings: ["read", "read", "write", "write", "uniform"],
    structs: [TRAIN_PARAMS],
  };
}

/** Bindings: scores, shares, mass, positions, loss, params. */
export function trainLossSpec(v: TrainListVariant, group: number, tail: boolean): KernelSpec {
  return {
    shader: "train_loss",
    variant: `train_loss_g${group}${tail ? "_tail" : ""}_${listName(v)}`,
    defines: { ...listDefines(v), GROUP: group, TAIL: tail },
    bindings: ["write", "read", "read", "read", "write", "uniform"],
    structs: [TRAIN_PARAMS],
  };
}

/** Bindings: values, input, other, out, params. */
export function trainActivateSpec(op: "affine" | "silu" | "silu_slope", lanes: number): KernelSpec {
  return {
    shader: "train_activate",
    variant: `train_activate_${op}_wg${lanes}`,
    defines: { OP: op, WG: lanes },
    bindings: ["read", "read", "read", "write", "uniform"],
    structs: [TRAIN_PARAMS],
  };
}

/** Bindings: angles, queries, params. */
export function trainTurnSpec(
  back: boolean,
  group: number,
  pairs: number,
  lanes: number,
): KernelSpec {
  return {
    shader: "train_turn",
    variant: `train_turn${back ? "_back" : ""}_g${group}_wg${lanes}`,
    defines: { BACK: back, GROUP: group, PAIRS: pairs, WG: lanes },
    bindings: ["read", "write", "uniform"],
    structs: [TRAIN_PARAMS],
  };
}

/** Bindings: normed, slopes, gradients, params. */
export function trainNormSlopeSpec(lanes: number): KernelSpec {
  return {
    shader: "train_norm_slope",
    variant: `train_norm_slope_wg${lanes}`,
    defines: { WG: lanes },
    bindings: ["read", "read", "write", "uniform"],
    structs: [TRAIN_PARAMS],
  };
}

/** Bindings: gradients, partial, params. */
export function trainClipSpec(final: boolean, lanes: number, subgroups: boolean): KernelSpec {
  const v = { full: false, lanes, subgroups };
  return {
    shader: "train_clip",
    variant: `train_clip${final ? "_final" : ""}_${listName(v)}`,
    defines: { ...listDefines(v), FINAL: final },
    bindings: ["read", "write", "uniform"],
    structs: [TRAIN_PARAMS],
  };
}

/** Bindings: values, gradients, moments, clipped, params. */
export function trainAdamwSpec(lanes: number): KernelSpec {
  return {
    shader: "train_adamw",
    variant: `train_adamw_wg${lanes}`,
    defines: { WG: lanes },
    bindings: ["write", "read", "write", "read", "uniform"],
    structs: [ADAM_PARAMS],
  };
}
