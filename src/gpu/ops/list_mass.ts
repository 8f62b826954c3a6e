/**
 * Host partner of `shaders/list_mass.wgsl`: adds up the attention that each cached row gets, for
 * policies that keep the rows which got most.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";
import type { AttentionForm, AttentionVariant } from "./attention.ts";

/** Sizes of the sums. */
export const MASS_PARAMS = defineParams("MassParams", {
  num_heads: "u32",
  num_kv_heads: "u32",
  /** Pages of a slot in both page tables. */
  max_pages: "u32",
  /** Keys of a workgroup. */
  split_keys: "u32",
  /** u32 of a slot in the selection. */
  selection_stride: "u32",
  /** Listed rows that a KV head has room for, there and among the positions. */
  list_capacity: "u32",
  /** Word of a row of qkv from which the heads' logarithms of sums stand. */
  lse_offset: "u32",
});

/** What is compiled in. */
export interface ListMassVariant
  extends Pick<AttentionVariant, "headDim" | "group" | "kvType" | "pageSize" | "lanes"> {
  readonly form: AttentionForm;
  /** f32 of one page of one KV head; its rows stand first. */
  readonly massWords: number;
  /** Bit of the rows whose attention counts; ROW_KEEPS of list_params.ts. */
  readonly keeps: number;
}

/**
 * Source, defines and bindings: qkv, keys, pages, rows, the selection, positions of the listed rows,
 * pages of the sums, the sums, params, step.
 */
export function listMassSpec(v: ListMassVariant): KernelSpec {
  return {
    shader: "list_mass",
    variant: `list_mass_${v.form}_d${v.headDim}_g${v.group}_${v.kvType}_p${v.pageSize}` +
      `_m${v.massWords}_k${v.keeps}_wg${v.lanes}`,
    defines: {
      WG: v.lanes,
      FORM: v.form,
      GROUP: v.group,
      KEEPS: `${v.keeps}u`,
      HEAD_DIM: `${v.headDim}u`,
      HEAD_VEC: v.headDim / 8,
      HEAD_QUADS: v.headDim / 4,
      QUERY_QUADS: v.group * v.headDim / 4,
      PAGE_SIZE: `${v.pageSize}u`,
      MASS_WORDS: `${v.massWords}u`,
      KV_TYPE: v.kvType,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      VALUES: false,
    },
    bindings: ["read", "read", "read", "read", "read", "read", "read", "write", "uniform", "step"],
    structs: [MASS_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows with up to `splits` times `split_keys` keys. */
export function listMassWorkgroups(numKvHeads: number, rows: number, splits: number): number {
  return rows * splits * numKvHeads;
}
