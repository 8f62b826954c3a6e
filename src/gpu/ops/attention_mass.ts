/**
 * Host partner of `shaders/attention_mass.wgsl` and `shaders/score_lists.wgsl`: how much attention cached
 * rows have had, and that as scores.
 *
 * @module
 */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_PARAMS, TILE } from "./list_params.ts";
import type { KvType } from "./rope.ts";

/** Where mass is kept. */
export interface MassPlace {
  /** `lists`: (lists, mass_stride) f32; `store`: in the pages of the importance store. */
  readonly target: "lists" | "store";
  /**
   * Each row of the step is of its own sequence (decoding) and has its own lists; otherwise all rows are
   * of one sequence, in ascending order, and share them.
   */
  readonly eachRow: boolean;
}

/** What is compiled in. */
export interface AttentionMassVariant extends MassPlace {
  readonly headDim: number;
  /** Query heads of a KV head. */
  readonly group: number;
  readonly kvType: KvType;
  /** Where keys lie: in the cache, or in a buffer of neighbouring positions of one sequence. */
  readonly source: "pages" | "staging";
  readonly lanes: number;
  /** Positions of a lane: 32 on a CPU, 1 on a GPU. */
  readonly turns: number;
  /** Rows that share the keys they load; 1 with `eachRow`. */
  readonly queryRows: number;
  /** Queries in workgroup memory, for GPUs; a CPU would rather have them in each lane. */
  readonly shared: boolean;
}

/**
 * Source, defines and bindings of a variant. The bindings that a variant does not read are bound all the
 * same, to any buffer.
 */
export function attentionMassSpec(v: AttentionMassVariant): KernelSpec {
  if (v.headDim % 8 !== 0) throw new RangeError(`head size ${v.headDim} is no multiple of 8`);
  if (v.eachRow && v.queryRows !== 1) throw new RangeError("rows of their own share no keys");
  return {
    shader: "attention_mass",
    variant: `attention_mass_${v.source}_${v.target}_d${v.headDim}_g${v.group}_${v.kvType}` +
      `_q${v.queryRows}_wg${v.lanes}_t${v.turns}${v.eachRow ? "_each" : ""}` +
      (v.shared ? "_shared" : ""),
    defines: {
      WG: v.lanes,
      GROUP: v.group,
      TURNS: v.turns,
      QUERY_ROWS: v.queryRows,
      QUERIES: v.queryRows * v.group,
      QUERY_QUADS: v.queryRows * v.group * v.headDim / 4,
      ROW_QUADS: v.group * v.headDim / 4,
      HEAD_DIM: `${v.headDim}u`,
      HEAD_VEC: v.headDim / 8,
      KV_TYPE: v.kvType,
      VALUES: false,
      CACHE_VEC: v.kvType === "f16" ? "vec4u" : "vec4f",
      SOURCE: v.source,
      TARGET: v.target,
      EACH_ROW: v.eachRow,
      SHARED: v.shared,
    },
    bindings: ["read", "read", "read", "read", "write", "read", "read", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows and `positions` positions from `base` of the parameters on. */
export function attentionMassWorkgroups(
  v: AttentionMassVariant,
  numKvHeads: number,
  rows: number,
  positions: number,
): number {
  return Math.ceil(positions / (v.lanes * v.turns)) * numKvHeads * (v.eachRow ? rows : 1);
}

/** What is compiled into the scoring of mass. */
export interface ScoreListsVariant extends MassPlace {
  /** Average of five neighbours. */
  readonly pool: boolean;
  readonly lanes: number;
}

/** Source, defines and bindings of a variant. */
export function scoreListsSpec(v: ScoreListsVariant): KernelSpec {
  return {
    shader: "score_lists",
    variant: `score_lists_${v.target}_wg${v.lanes}${v.pool ? "_pool" : ""}` +
      (v.eachRow ? "_each" : ""),
    defines: {
      WG: v.lanes,
      POOL: v.pool,
      TARGET: v.target,
      EACH_ROW: v.eachRow,
      UNIT: "rows",
    },
    bindings: ["read", "read", "read", "read", "write", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows of which the furthest has candidates below `end`. */
export function scoreListsWorkgroups(
  v: ScoreListsVariant,
  numKvHeads: number,
  rows: number,
  end: number,
): number {
  return Math.ceil(end / (v.lanes * TILE) + 1) * rows * numKvHeads;
}
