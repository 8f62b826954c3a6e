/** Host partner of `shaders/score_projected.wgsl`: importance of each candidate row. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import type { ImportanceKeys } from "./importance_project.ts";
import { LIST_MODES, LIST_PARAMS, TILE } from "./list_params.ts";

/** What is compiled in. */
export interface ScoreProjectedVariant {
  /** Query heads of a KV head. */
  readonly group: number;
  readonly keys: ImportanceKeys;
  readonly lanes: number;
  /** Runs of eight rows that a lane scores: 16 on a CPU, where a workgroup is dear, 1 on a GPU. */
  readonly turns: number;
}

/** Source, defines and bindings of a variant. */
export function scoreProjectedSpec(v: ScoreProjectedVariant): KernelSpec {
  return {
    shader: "score_projected",
    variant: `score_projected_g${v.group}_${v.keys}_wg${v.lanes}_t${v.turns}`,
    defines: {
      WG: v.lanes,
      GROUP: v.group,
      TURNS: v.turns,
      KEYS: v.keys,
      MODE: `${LIST_MODES.projected}u`,
      UNIT: "rows",
    },
    bindings: ["read", "read", "read", "read", "read", "write", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/**
 * Workgroups for `rows` rows of which the furthest has candidates below `end`.
 */
export function scoreProjectedWorkgroups(
  v: ScoreProjectedVariant,
  numKvHeads: number,
  rows: number,
  end: number,
): number {
  return Math.ceil(end / (v.lanes * v.turns * TILE)) * rows * numKvHeads;
}
