/**
 * Host partner of `shaders/page_bounds.wgsl` and `shaders/score_pages.wgsl`: bounds of the keys of each
 * sixteen rows, and the scores that they allow.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_PARAMS, PAGE_ROWS, SUB_PAGE, TILE } from "./list_params.ts";
import type { KvType } from "./rope.ts";

/** What is compiled in. */
export interface PageBoundsVariant {
  readonly headDim: number;
  readonly kvType: KvType;
  readonly lanes: number;
}

/** Source, defines and bindings of a variant. One workgroup a row and KV head. */
export function pageBoundsSpec(v: PageBoundsVariant): KernelSpec {
  return {
    shader: "page_bounds",
    variant: `page_bounds_d${v.headDim}_${v.kvType}_wg${v.lanes}`,
    defines: {
      WG: v.lanes,
      KV_TYPE: v.kvType,
      VALUES: false,
      HEAD_WORDS: `${v.kvType === "f16" ? v.headDim / 2 : v.headDim}u`,
    },
    bindings: ["read", "read", "read", "read", "write", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/** vec4u of a page of one KV head that holds bounds. */
export function boundsQuads(headDim: number, kvType: KvType): number {
  return PAGE_ROWS / SUB_PAGE * 2 * headDim / (kvType === "f16" ? 8 : 4);
}

/** What is compiled into the scoring of pages. */
export interface ScorePagesVariant extends PageBoundsVariant {
  /** Query heads of a KV head. */
  readonly group: number;
}

/** Source, defines and bindings of a variant. */
export function scorePagesSpec(v: ScorePagesVariant): KernelSpec {
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  return {
    shader: "score_pages",
    variant: `score_pages_d${v.headDim}_g${v.group}_${v.kvType}_wg${v.lanes}`,
    defines: {
      WG: v.lanes,
      GROUP: v.group,
      HEAD_DIM: `${v.headDim}u`,
      HEAD_VEC: v.headDim / 8,
      HEAD_QUADS: `${v.headDim / (v.kvType === "f16" ? 8 : 4)}u`,
      KV_TYPE: v.kvType,
      VALUES: false,
      UNIT: "pages",
    },
    bindings: ["read", "read", "read", "read", "read", "write", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows of which the furthest has candidates below page `end`. */
export function scorePagesWorkgroups(
  v: ScorePagesVariant,
  numKvHeads: number,
  rows: number,
  end: number,
): number {
  return Math.ceil(Math.ceil(end / PAGE_ROWS) * PAGE_ROWS / (v.lanes * TILE)) * rows * numKvHeads;
}
