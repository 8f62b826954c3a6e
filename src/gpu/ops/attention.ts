/**
 * Host partner of `shaders/attention.wgsl`, of its forms for CPUs, `shaders/attention_lanes.wgsl` and
 * `shaders/attention_queries.wgsl`, and of their second half, `shaders/attention_merge.wgsl`.
 *
 * Keys that are not all on the device at once are attended in passes: each leaves partial results
 * (`partialOnly`), over keys and values, a page table and a row table of its own, and is followed by
 * a merge that carries the running result.
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
  /** 1: results go to `partial` even from a row with one split. */
  partial_only: "u32",
  /** u32 of a slot in the selection. */
  selection_stride: "u32",
  /** Listed rows that a KV head has room for there. */
  list_capacity: "u32",
  /** Of a merge that carries: 1 for the first of several passes over the keys, and for the last. */
  first_pass: "u32",
  last_pass: "u32",
  /** f32 from row to row of `lse`, and before the first head. */
  lse_stride: "u32",
  lse_offset: "u32",
});

/** What {@linkcode attentionParams} packs; see {@linkcode ATTENTION_PARAMS}. */
export interface AttentionSizes {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly maxPages: number;
  readonly maxSplits: number;
  readonly splitKeys: number;
  readonly partialOnly?: boolean;
  readonly selectionStride?: number;
  readonly listCapacity?: number;
  readonly firstPass?: boolean;
  readonly lastPass?: boolean;
  /** The heads by default. */
  readonly lseStride?: number;
  readonly lseOffset?: number;
}

/** Packs the uniform of attention and of its merge. */
export function attentionParams(sizes: AttentionSizes): Uint32Array<ArrayBuffer> {
  return ATTENTION_PARAMS.pack({
    num_heads: sizes.numHeads,
    num_kv_heads: sizes.numKvHeads,
    max_pages: sizes.maxPages,
    max_splits: sizes.maxSplits,
    split_keys: sizes.splitKeys,
    partial_only: Number(sizes.partialOnly ?? false),
    selection_stride: sizes.selectionStride ?? 0,
    list_capacity: sizes.listCapacity ?? 0,
    first_pass: Number(sizes.firstPass ?? false),
    last_pass: Number(sizes.lastPass ?? false),
    lse_stride: sizes.lseStride ?? sizes.numHeads,
    lse_offset: sizes.lseOffset ?? 0,
  });
}

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

/**
 * Which rows of a step a variant deals with, and what they attend to. `all`: every row, to all rows
 * of its sequence up to its own. `dense`: the same, but slots whose rows are selected are passed over.
 * `rows`: only those, to what is selected (`selection.ts`).
 */
export type AttentionKeys = "all" | "dense" | "rows";

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
  /** `all` by default. `rows` takes `queryRows` 1. */
  readonly keys?: AttentionKeys;
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

/** qkv, keys, values, pages, rows, out, partial. */
const BUFFERS: KernelSpec["bindings"] = ["read", "read", "read", "read", "read", "write", "write"];

/** Keys of a tile of the `lanes` form. */
const LANE_TILE_KEYS = 256;

/**
 * Source, defines and bindings of a variant: qkv, keys, values, pages, rows, out, partial, the selection
 * (not with `keys` all), params, step.
 *
 * @throws {RangeError} If the sizes do not fit together.
 */
export function attentionSpec(v: AttentionVariant): KernelSpec {
  const keys = v.keys ?? "all";
  if (keys === "rows" && v.queryRows !== 1) {
    throw new RangeError(`${v.queryRows} rows cannot share keys that are selected for one`);
  }
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  return {
    shader: SHADERS[v.form],
    variant: `attention_${v.form}_d${v.headDim}_g${v.group}_q${v.queryRows}_${v.kvType}` +
      `_p${v.pageSize}_wg${v.lanes}${keys === "all" ? "" : `_${keys}`}`,
    defines: {
      WG: v.lanes,
      HEAD_DIM: `${v.headDim}u`,
      HEAD_VEC: v.headDim / 8,
      GROUP: v.group,
      QUERY_ROWS: v.queryRows,
      QUERIES: v.queryRows * v.group,
      QUERY_QUADS: v.queryRows * v.group * v.headDim / 4,
      PAGE_SIZE: `${v.pageSize}u`,
      KV_TYPE: v.kvType,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      VALUES: true,
      KEYS: keys,
      ...DEFINES[v.form](v),
    },
    bindings: [...BUFFERS, ...(keys === "all" ? [] : ["read"] as const), "uniform", "step"],
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
    TILE_KEYS: tilePages * v.pageSize,
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
  const cells = v.keys === "rows" ? v.lanes : 0;
  return (queries * v.lanes + queries * v.headDim / 4 + v.lanes * 2 + cells) * 16 + queries * 8;
}

/** The variant with as few lanes as it takes to fit the adapter's workgroup memory. */
export function fitWorkgroupMemory(v: AttentionVariant, bytes: number): AttentionVariant {
  let { lanes } = v;
  while (v.form === "tiled" && lanes > 8 && tiledMemory({ ...v, lanes }) > bytes) lanes /= 2;
  return { ...v, lanes };
}

/** What is compiled into the merge. */
export interface AttentionMergeVariant {
  readonly headDim: number;
  readonly lanes: number;
  /** Splits of slots whose rows are selected are counted by the selection. */
  readonly selection?: boolean;
  /** Goes on from a running result, or leaves one. */
  readonly carry?: boolean;
  /** Writes maximum + log(normaliser) of each head of a row; takes `partialOnly`, or `carry`. */
  readonly lse?: boolean;
}

/**
 * Source, defines and bindings of the merge: partial, rows, the selection (with `selection`), out, the
 * running result (with `carry`), lse (with `lse`), params, step. One workgroup a head of a row.
 */
export function attentionMergeSpec(v: AttentionMergeVariant): KernelSpec {
  const { selection = false, carry = false, lse = false } = v;
  const out = selection ? 3 : 2;
  const params = out + 1 + Number(carry) + Number(lse);
  return {
    shader: "attention_merge",
    variant: `attention_merge_d${v.headDim}_wg${v.lanes}` +
      `${selection ? "_rows" : ""}${carry ? "_carry" : ""}${lse ? "_lse" : ""}`,
    defines: {
      WG: v.lanes,
      HEAD_QUADS: `${v.headDim / 4}u`,
      SELECTION: selection,
      CARRY: carry,
      LSE: lse,
      OUT_BINDING: out,
      CARRY_BINDING: out + 1,
      LSE_BINDING: out + 1 + Number(carry),
      PARAMS_BINDING: params,
      STEP_BINDING: params + 1,
    },
    bindings: [
      "read",
      "read",
      ...(selection ? ["read"] as const : []),
      "write",
      ...(carry ? ["write"] as const : []),
      ...(lse ? ["write"] as const : []),
      "uniform",
      "step",
    ],
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

/** Where the logarithms of sums stand in a row of qkv: in place of the first key, which is cached. */
export function lseInQkv(
  v: { readonly numHeads: number; readonly numKvHeads: number; readonly headDim: number },
): { readonly lseStride: number; readonly lseOffset: number } {
  return {
    lseStride: (v.numHeads + 2 * v.numKvHeads) * v.headDim,
    lseOffset: v.numHeads * v.headDim,
  };
}
