/**
 * Host partner of `shaders/kv_scatter.wgsl` and `shaders/kv_gather.wgsl`, which carry single rows of
 * one KV head between the slabs and a packed buffer.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";
import type { KvType } from "./rope.ts";

/** Sizes of a copy. The rows are those of the step: `first_row`, `num_rows`. */
export const KV_COPY_PARAMS = defineParams("KvCopyParams", {
  num_kv_heads: "u32",
});

/** As the row of a place: nothing is copied. */
export const NO_PLACE = 0xffffffff;

/** What is compiled in. */
export interface KvCopyVariant {
  /** Scatter: packed rows to the slabs; gather: back. */
  readonly direction: "scatter" | "gather";
  readonly headDim: number;
  readonly kvType: KvType;
  readonly pageSize: number;
  readonly lanes: number;
  /** Lanes that share a row: `rows` leaves a row to one lane, for CPUs; `words` to many, for GPUs. */
  readonly spread: "rows" | "words";
}

/** Bytes of a packed row: keys, then values. */
export function packedRowBytes(headDim: number, kvType: KvType): number {
  return headDim * 2 * (kvType === "f16" ? 2 : 4);
}

function rowVecs(v: Pick<KvCopyVariant, "headDim" | "kvType">): number {
  return packedRowBytes(v.headDim, v.kvType) / 32;
}

/** Lanes that share a row: a power of two that divides the vec4u of a row's keys. */
function parts(v: KvCopyVariant): number {
  let count = 1;
  if (v.spread === "rows") return count;
  while (count * 2 <= v.lanes && rowVecs(v) % (count * 2) === 0) count *= 2;
  return count;
}

/**
 * Source, defines and bindings: packed rows, their places (vec2u: row of the slab, KV head), keys, values,
 * params, step.
 *
 * @throws {RangeError} If a row of keys is no whole number of 16 bytes.
 */
export function kvCopySpec(v: KvCopyVariant): KernelSpec {
  if (!Number.isInteger(rowVecs(v))) {
    throw new RangeError(`keys of ${v.headDim} values in ${v.kvType} are no multiple of 16 bytes`);
  }
  const shared = parts(v);
  const scatter = v.direction === "scatter";
  return {
    shader: `kv_${v.direction}`,
    variant: `kv_${v.direction}_d${v.headDim}_${v.kvType}_p${v.pageSize}_wg${v.lanes}_${v.spread}`,
    defines: {
      WG: v.lanes,
      HEAD_DIM: `${v.headDim}u`,
      PAGE_SIZE: `${v.pageSize}u`,
      ROW_VECS: `${rowVecs(v)}u`,
      VEC_VALUES: v.kvType === "f16" ? "8u" : "4u",
      PARTS: `${shared}u`,
      ROWS_PER_GROUP: `${v.lanes / shared}u`,
      TURNS: rowVecs(v) / shared,
    },
    bindings: scatter
      ? ["read", "read", "write", "write", "uniform", "step"]
      : ["write", "read", "read", "read", "uniform", "step"],
    structs: [KV_COPY_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows. */
export function kvCopyWorkgroups(v: KvCopyVariant, rows: number): number {
  return Math.ceil(rows * parts(v) / v.lanes);
}
