/** Host partner of `shaders/importance_project.wgsl`: what rows are scored by. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_PARAMS } from "./list_params.ts";
import type { KvType } from "./rope.ts";

/** What is compiled in. */
export interface ImportanceProjectVariant {
  readonly headDim: number;
  /** Query heads of a KV head. */
  readonly group: number;
  readonly kvType: KvType;
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
    variant: `importance_project_d${v.headDim}_g${v.group}_${v.kvType}_wg${v.lanes}` +
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
  return Math.ceil(rows * heads * 4 / v.lanes);
}
