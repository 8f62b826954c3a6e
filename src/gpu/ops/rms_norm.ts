/** Host partner of `shaders/rms_norm.wgsl`. @module */
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";

/** Sizes of a norm. */
export const NORM_PARAMS = defineParams("NormParams", {
  /** vec4f in a row. */
  stride: "u32",
  /** Values in a row, without padding. */
  width: "u32",
  eps: "f32",
});

/** What is compiled in. */
export interface NormVariant {
  readonly lanes: number;
  readonly subgroups: boolean;
}

/** Source, defines and bindings of a variant. One workgroup a row. */
export function rmsNormSpec(v: NormVariant): KernelSpec {
  return {
    shader: "rms_norm",
    variant: `rms_norm_wg${v.lanes}${v.subgroups ? "_sg" : ""}`,
    defines: { WG: v.lanes, SUBGROUPS: v.subgroups },
    bindings: ["read", "read", "write", "uniform", "step"],
    structs: [NORM_PARAMS, STEP_PARAMS],
  };
}
