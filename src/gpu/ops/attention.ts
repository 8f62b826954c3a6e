/**
 * Host partner of `shaders/attention.wgsl` and of its second half, `shaders/attention_merge.wgsl`.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";
import type { KvType } from "./rope.ts";

/** Sizes of attention. */
export const ATTENTION_PARAMS = defineParams("AttentionParams", {
  num_heads: "u32",
  num_kv_heads: "u32",
  /** Pages of a slot in the page table. */
  max_pages: "u32",
  /** Splits that the partial sums have room for. */
  max_splits: "u32",
});

/** What is compiled in. */
export interface AttentionVariant {
  readonly headDim: number;
  /** Query heads of a KV head. */
  readonly group: number;
  /** Rows of one sequence that share the keys they load; 1 when decoding. */
  readonly queryRows: number;
  readonly kvType: KvType;
  readonly pageSize: number;
  readonly lanes: number;
  /** Keys of a split, a multiple of a tile; 0: no splits. */
  readonly split: number;
  /** Keep queries in registers instead of workgroup memory. */
  readonly queryRegisters: boolean;
}

/** f32 that one split of one head leaves behind. */
export function partialStride(headDim: number): number {
  return headDim + 4;
}

/** Keys that go by together. */
export function tileKeys(lanes: number): number {
  return lanes * 4;
}

/** Lanes along the head dimension: the most that divide both the lanes and the dimension. */
function dimLanes(lanes: number, headDim: number): number {
  let count = 1;
  while (count * 2 <= lanes && (headDim / 8) % (count * 2) === 0) count *= 2;
  return count;
}

function common(v: Pick<AttentionVariant, "headDim" | "lanes" | "split">) {
  return { WG: v.lanes, HEAD_DIM: `${v.headDim}u`, SPLIT: v.split === 0 ? 0 : `${v.split}u` };
}

/** Source, defines and bindings of a variant. */
export function attentionSpec(v: AttentionVariant): KernelSpec {
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  if (v.split % tileKeys(v.lanes) !== 0) {
    throw new RangeError(`a split of ${v.split} keys is no multiple of a tile`);
  }
  const queries = v.queryRows * v.group;
  const along = dimLanes(v.lanes, v.headDim);
  const keyGroups = v.lanes / along;
  return {
    shader: "attention",
    variant: `attention_d${v.headDim}_g${v.group}_q${v.queryRows}_${v.kvType}_p${v.pageSize}` +
      `_s${v.split}_wg${v.lanes}${v.queryRegisters ? "_reg" : ""}`,
    defines: {
      ...common(v),
      HEAD_VEC: v.headDim / 8,
      GROUP: v.group,
      QUERY_ROWS: v.queryRows,
      QUERIES: queries,
      QUERY_QUADS: queries * v.headDim / 4,
      PAGE_SIZE: `${v.pageSize}u`,
      KV_TYPE: v.kvType,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      DIM_LANES: along,
      DIM_CHUNKS: v.headDim / 8 / along,
      KEY_GROUPS: keyGroups,
      GROUP_SUMS: v.lanes * 2,
      TILE_KEYS: `${tileKeys(v.lanes)}u`,
      TILE_QUADS: v.lanes,
      WEIGHT_QUADS: queries * v.lanes,
      SOFTMAX_ROUNDS: Math.ceil(queries / v.lanes),
      Q_REGISTERS: v.queryRegisters,
    },
    bindings: ["read", "read", "read", "read", "read", "write", "write", "uniform", "step"],
    structs: [ATTENTION_PARAMS, STEP_PARAMS],
  };
}

/** Source, defines and bindings of the merge. One workgroup a head of a row. */
export function attentionMergeSpec(
  v: Pick<AttentionVariant, "headDim" | "lanes" | "split">,
): KernelSpec {
  return {
    shader: "attention_merge",
    variant: `attention_merge_d${v.headDim}_s${v.split}_wg${v.lanes}`,
    defines: common(v),
    bindings: ["read", "read", "write", "uniform", "step"],
    structs: [ATTENTION_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows with up to `splits` splits. */
export function attentionWorkgroups(
  v: AttentionVariant,
  numKvHeads: number,
  rows: number,
  splits: number,
): number {
  return Math.ceil(rows / v.queryRows) * splits * numKvHeads;
}
