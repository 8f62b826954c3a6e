/** Host partner of `shaders/embed.wgsl`: rows of the embedding matrix. @module */
import type { WeightType } from "../../model/types.ts";
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";
import { weightDefines } from "../weight_layout.ts";

/** Token id in the row table that means: the one sampled last for the slot. */
export const TOKEN_FROM_DEVICE = 0xffffffff;

/** Sizes of one part of the embedding matrix. */
export const EMBED_PARAMS = defineParams("EmbedParams", {
  /** Tokens of this part. */
  first_token: "u32",
  num_tokens: "u32",
  /** Units of eight weights in a row, and vec4u of a row. */
  units: "u32",
  row_vecs: "u32",
  /** vec4f in a row of x. */
  x_stride: "u32",
});

/** What is compiled in. */
export interface EmbedVariant {
  readonly type: WeightType;
  readonly lanes: number;
}

/** Source, defines and bindings of a variant. One workgroup a row. */
export function embedSpec(v: EmbedVariant): KernelSpec {
  return {
    shader: "embed",
    variant: `embed_${v.type}_wg${v.lanes}`,
    defines: {
      ...weightDefines(v.type),
      WG: v.lanes,
      TOKEN_FROM_DEVICE: `${TOKEN_FROM_DEVICE}u`,
    },
    bindings: ["read", "read", "read", "write", "uniform", "step"],
    structs: [EMBED_PARAMS, STEP_PARAMS],
  };
}
