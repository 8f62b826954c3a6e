/** Host partner of `shaders/score_exact.wgsl`: exact scores of each candidate row. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_PARAMS, TILE } from "./list_params.ts";
import type { KvType } from "./rope.ts";

/** What is compiled in. */
export interface ScoreExactVariant {
  readonly headDim: number;
  /** Query heads of a KV head. */
  readonly group: number;
  readonly kvType: KvType;
  /** Where keys lie: in the cache, or in a buffer of neighbouring positions of one sequence. */
  readonly source: "pages" | "staging";
  readonly lanes: number;
  /** Runs of eight rows that a lane scores: 16 on a CPU, where a workgroup is dear, 1 on a GPU. */
  readonly turns: number;
  /** Queries in workgroup memory, for GPUs; a CPU would rather have them in each lane. */
  readonly shared: boolean;
}

/** Source, defines and bindings of a variant. */
export function scoreExactSpec(v: ScoreExactVariant): KernelSpec {
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  return {
    shader: "score_exact",
    variant: `score_exact_${v.source}_d${v.headDim}_g${v.group}_${v.kvType}_wg${v.lanes}` +
      `_t${v.turns}${v.shared ? "_shared" : ""}`,
    defines: {
      WG: v.lanes,
      GROUP: v.group,
      TURNS: v.turns,
      HEAD_DIM: `${v.headDim}u`,
      HEAD_VEC: v.headDim / 8,
      QUERY_QUADS: v.group * v.headDim / 4,
      KV_TYPE: v.kvType,
      VALUES: false,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      SOURCE: v.source,
      SHARED: v.shared,
      UNIT: "rows",
    },
    bindings: [
      "read",
      "read",
      ...(v.source === "pages" ? ["read"] as const : []),
      "read",
      "read",
      "write",
      "uniform",
      "step",
    ],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/**
 * Workgroups for `rows` rows.
 *
 * @param positions Positions to score from `base` of the parameters on: with a page table, where the
 * candidates of the furthest row end.
 */
export function scoreExactWorkgroups(
  v: ScoreExactVariant,
  numKvHeads: number,
  rows: number,
  positions: number,
): number {
  return Math.ceil(positions / (v.lanes * v.turns * TILE)) * rows * numKvHeads;
}
