/**
 * Host partner of `shaders/attention.wgsl`, of its forms for CPUs, `shaders/attention_lanes.wgsl` and
 * `shaders/attention_queries.wgsl`, and of their second half, `shaders/attention_merge.wgsl`.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import type { Defines } from "../preprocessor.ts";
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
  /** Keys of a split, a multiple of a tile; NO_SPLIT: all. */
  split_keys: "u32",
});

/**
 * `tiled` (attention.wgsl): lanes share tiles of keys through workgroup memory, for GPUs; `lanes`
 * (attention_lanes.wgsl): lanes keep whole keys to themselves, for CPUs; `queries`
 * (attention_queries.wgsl): a lane keeps the queries of one row of a prompt, for CPUs with subgroups,
 * without splits.
 */
export type AttentionForm = "tiled" | "lanes" | "queries";

const SHADERS = {
  tiled: "attention",
  lanes: "attention_lanes",
  queries: "attention_queries",
} as const satisfies Record<AttentionForm, string>;

/** All forms. */
export const ATTENTION_FORMS = Object.keys(SHADERS) as readonly AttentionForm[];

/** As `split_keys`: one workgroup goes through all keys. */
export const NO_SPLIT = 2 ** 31;

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
  readonly form: AttentionForm;
}

/** f32 that one split of one head leaves behind. */
export function partialStride(headDim: number): number {
  return headDim + 4;
}

/** Keys that go by together. */
function tileKeys(lanes: number): number {
  return lanes * 4;
}

/** Lanes along the head dimension: the most that divide both the lanes and the dimension. */
function dimLanes(lanes: number, headDim: number): number {
  let count = 1;
  while (count * 2 <= lanes && (headDim / 8) % (count * 2) === 0) count *= 2;
  return count;
}

function common(v: Pick<AttentionVariant, "headDim" | "lanes">): Defines {
  return { WG: v.lanes, HEAD_DIM: `${v.headDim}u` };
}

const BINDINGS: KernelSpec["bindings"] = [
  "read",
  "read",
  "read",
  "read",
  "read",
  "write",
  "write",
  "uniform",
  "step",
];

/** Keys of a tile of the `lanes` form. */
const LANE_TILE_KEYS = 256;

/** Source, defines and bindings of a variant. */
export function attentionSpec(v: AttentionVariant): KernelSpec {
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  return {
    shader: SHADERS[v.form],
    variant: `attention_${v.form}_d${v.headDim}_g${v.group}_q${v.queryRows}_${v.kvType}` +
      `_p${v.pageSize}_wg${v.lanes}`,
    defines: {
      ...common(v),
      HEAD_VEC: v.headDim / 8,
      GROUP: v.group,
      QUERY_ROWS: v.queryRows,
      QUERIES: v.queryRows * v.group,
      QUERY_QUADS: v.queryRows * v.group * v.headDim / 4,
      PAGE_SIZE: `${v.pageSize}u`,
      KV_TYPE: v.kvType,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      ...DEFINES[v.form](v),
    },
    bindings: BINDINGS,
    structs: [ATTENTION_PARAMS, STEP_PARAMS],
  };
}

function tiledDefines(v: AttentionVariant): Defines {
  const queries = v.queryRows * v.group;
  const along = dimLanes(v.lanes, v.headDim);
  return {
    DIM_LANES: along,
    DIM_CHUNKS: v.headDim / 8 / along,
    KEY_GROUPS: v.lanes / along,
    GROUP_SUMS: v.lanes * 2,
    TILE_KEYS: `${tileKeys(v.lanes)}u`,
    TILE_QUADS: v.lanes,
    WEIGHT_QUADS: queries * v.lanes,
    SOFTMAX_ROUNDS: Math.ceil(queries / v.lanes),
  };
}

function lanesDefines(v: AttentionVariant): Defines {
  if (v.pageSize % v.lanes !== 0) {
    throw new RangeError(`${v.lanes} lanes do not divide a page of ${v.pageSize} rows`);
  }
  const queryVecs = Math.ceil(v.queryRows * v.group / 4);
  const tilePages = Math.max(1, Math.floor(LANE_TILE_KEYS / v.pageSize / queryVecs));
  return {
    HEAD_QUADS: v.headDim / 4,
    QUERY_VECS: queryVecs,
    LINE: queryVecs * 4,
    TILE_PAGES: `${tilePages}u`,
    PAGE_TURNS: `${v.pageSize / v.lanes}u`,
    SCORES: tilePages * v.pageSize * queryVecs,
    MERGED: v.headDim / 4 * v.lanes,
    STATES: v.queryRows * v.group * v.lanes,
  };
}

function queriesDefines(v: AttentionVariant): Defines {
  if (v.pageSize % v.lanes !== 0 || v.queryRows !== v.lanes) {
    throw new RangeError(
      `${v.lanes} lanes do not fit a page of ${v.pageSize} or ${v.queryRows} rows`,
    );
  }
  return {
    HEAD_QUADS: v.headDim / 4,
    QUERY_QUADS: v.group * v.headDim / 4,
    LINE: v.group * v.lanes,
    PAGE_TURNS: `${v.pageSize / v.lanes}u`,
  };
}

const DEFINES = { tiled: tiledDefines, lanes: lanesDefines, queries: queriesDefines };

/** Bytes of workgroup memory that the tiled form takes. */
function tiledMemory(v: AttentionVariant): number {
  const queries = v.queryRows * v.group;
  return (queries * v.lanes + queries * v.headDim / 4 + v.lanes * 2) * 16 + queries * 8;
}

/** The variant with as few lanes as it takes to fit the adapter's workgroup memory. */
export function fitWorkgroupMemory(v: AttentionVariant, bytes: number): AttentionVariant {
  let { lanes } = v;
  while (v.form === "tiled" && lanes > 8 && tiledMemory({ ...v, lanes }) > bytes) lanes /= 2;
  return { ...v, lanes };
}

/** Source, defines and bindings of the merge. One workgroup a head of a row. */
export function attentionMergeSpec(
  v: Pick<AttentionVariant, "headDim" | "lanes">,
): KernelSpec {
  return {
    shader: "attention_merge",
    variant: `attention_merge_d${v.headDim}_wg${v.lanes}`,
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
