/** Host partner of `shaders/importance_project.wgsl`: what rows are scored by. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_PARAMS, ROW_KEEPS } from "./list_params.ts";
import type { KvType } from "./rope.ts";

/**
 * Form of what is kept of a row to score it by: half precision, or bytes with a scale for each row, so
 * that what is written for one row changes nothing for another.
 */
export const IMPORTANCE_KEYS = ["f16", "int8"] as const;
/** One of {@linkcode IMPORTANCE_KEYS}. */
export type ImportanceKeys = typeof IMPORTANCE_KEYS[number];

/** What is compiled in. */
export interface ImportanceProjectVariant {
  readonly headDim: number;
  /** Query heads of a KV head. */
  readonly group: number;
  readonly kvType: KvType;
  readonly keys: ImportanceKeys;
  /** Also project the queries of the step; otherwise only the keys of its rows. */
  readonly queries: boolean;
  /** A multiple of 4. */
  readonly lanes: number;
}

/** Source, defines and bindings of a variant. */
export function importanceProjectSpec(v: ImportanceProjectVariant): KernelSpec {
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  return {
    shader: "importance_project",
    variant: `importance_project_d${v.headDim}_g${v.group}_${v.kvType}_${v.keys}_wg${v.lanes}` +
      (v.queries ? "_queries" : ""),
    defines: {
      WG: v.lanes,
      GROUP: v.group,
      HEAD_DIM: `${v.headDim}u`,
      HEAD_VEC: v.headDim / 8,
      KV_TYPE: v.kvType,
      VALUES: false,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      QUERIES: v.queries,
      KEYS: v.keys,
      STORE: v.keys === "f16" ? "vec2u" : "u32",
      LANES_A_HEAD: `${lanesOfHead(v)}u`,
      COLUMNS: 4 / lanesOfHead(v),
      KEEPS: `${ROW_KEEPS.key}u`,
    },
    bindings: [
      "read",
      "read",
      "read",
      "read",
      "read",
      "write",
      ...(v.queries ? ["read", "write"] as const : []),
      "uniform",
      "step",
    ],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows. */
export function importanceProjectWorkgroups(
  v: ImportanceProjectVariant,
  numKvHeads: number,
  rows: number,
): number {
  const heads = numKvHeads * (v.queries ? 1 + v.group : 1);
  return Math.ceil(rows * heads * lanesOfHead(v) / v.lanes);
}

function lanesOfHead({ keys }: ImportanceProjectVariant): number {
  return keys === "f16" ? 4 : 1;
}
