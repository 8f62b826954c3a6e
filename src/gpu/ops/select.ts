/** Host partner of `shaders/select.wgsl`: the best candidates of each list of scores. @module */
import type { KernelSpec } from "../kernels.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { LIST_MODES, LIST_PARAMS, PICKS_ONLY } from "./list_params.ts";

/** What is compiled in. */
export interface SelectVariant {
  /** What is picked: rows, or pages of sixteen. A kernel passes over slots of the other kind. */
  readonly unit: "rows" | "pages";
  /** A power of two, 4 to 256. */
  readonly lanes: number;
}

/** Source, defines and bindings of a variant. One workgroup a row and KV head. */
export function selectSpec(v: SelectVariant): KernelSpec {
  if (256 % v.lanes !== 0 || v.lanes < 4) {
    throw new RangeError(`selection takes 4 to 256 lanes, a power of two, not ${v.lanes}`);
  }
  return {
    shader: "select",
    variant: `select_${v.unit}_wg${v.lanes}`,
    defines: {
      WG: v.lanes,
      BINS_A_LANE: 256 / v.lanes,
      LANE_GROUPS: Math.max(1, v.lanes / 16),
      UNIT: v.unit,
      PAGES_MODE: `${LIST_MODES.pages}u`,
      PICKS_ONLY: `${PICKS_ONLY}u`,
      UNROLL: v.unit === "rows" ? 4 : 1,
    },
    bindings: [
      "read",
      "read",
      "read",
      "read",
      "write",
      "write",
      "write",
      "write",
      "uniform",
      "step",
    ],
    structs: [LIST_PARAMS, STEP_PARAMS],
  };
}
