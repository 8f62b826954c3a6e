/** Host partner of `shaders/mass_evict.wgsl`: rows that were let go are never picked again. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_MODES, LIST_PARAMS } from "./list_params.ts";

/** Mass of a row that is never picked again. */
export const EVICTED = -1e30;

/** What is compiled in. */
export interface MassEvictVariant {
  readonly lanes: number;
  /** Candidates of a lane: 32 on a CPU, where a workgroup is dear, 1 on a GPU. */
  readonly turns: number;
}

/** Source, defines and bindings of a variant. */
export function massEvictSpec(v: MassEvictVariant): KernelSpec {
  return {
    shader: "mass_evict",
    variant: `mass_evict_wg${v.lanes}_t${v.turns}`,
    defines: {
      WG: v.lanes,
      TURNS: v.turns,
      MODE: `${LIST_MODES.mass}u`,
      EVICTED: `${EVICTED}f`,
      UNIT: "rows",
    },
    bindings: ["read", "read", "read", "read", "read", "write", "uniform", "step"],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}

/** Workgroups for `rows` rows of which the furthest has candidates below `end`. */
export function massEvictWorkgroups(
  v: MassEvictVariant,
  numKvHeads: number,
  rows: number,
  end: number,
): number {
  return Math.ceil(end / (v.lanes * v.turns)) * rows * numKvHeads;
}
