/** Host partner of `shaders/rope.wgsl`: head norms, rotation, and writing k and v. @module */
import type { RopeConfig } from "../../model/types.ts";
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";
import { STEP_PARAMS } from "../step_params.ts";

/** Sizes of the rotation. */
export const ROPE_PARAMS = defineParams("RopeParams", {
  num_heads: "u32",
  num_kv_heads: "u32",
  /** Dimensions of a head that are rotated. */
  rotary: "u32",
  /** Pages of a slot in the page table. */
  max_pages: "u32",
  /** Of the head norms. */
  eps: "f32",
});

/** Storage type of the KV cache. */
export type KvType = "f16" | "f32";

/** What is compiled in. */
export interface RopeVariant {
  readonly headDim: number;
  readonly pairing: RopeConfig["pairing"];
  readonly qkNorm: boolean;
  readonly kvType: KvType;
  readonly pageSize: number;
  readonly lanes: number;
  readonly subgroups: boolean;
}

/** Source, defines and bindings of a variant. One workgroup a head of a row. */
export function ropeSpec(v: RopeVariant): KernelSpec {
  return {
    shader: "rope",
    variant: `rope_d${v.headDim}_${v.pairing}${v.qkNorm ? "_norm" : ""}_${v.kvType}` +
      `_p${v.pageSize}_wg${v.lanes}${v.subgroups ? "_sg" : ""}`,
    defines: {
      WG: v.lanes,
      HEAD_DIM: `${v.headDim}u`,
      PAGE_SIZE: `${v.pageSize}u`,
      PAIRING: v.pairing,
      KV_TYPE: v.kvType,
      CACHE_WORD: v.kvType === "f16" ? "u32" : "f32",
      QK_NORM: v.qkNorm,
      SUBGROUPS: v.subgroups,
    },
    bindings: [
      "write",
      "read",
      "read",
      "read",
      "write",
      "write",
      ...(v.qkNorm ? ["read"] as const : []),
      "uniform",
      "step",
    ],
    structs: [ROPE_PARAMS, STEP_PARAMS],
  };
}

/**
 * Cosine and sine of each pair of dimensions at a position, as the shader reads them.
 *
 * Computed here in double precision: shaders guarantee sine only near zero.
 *
 * @param out (rotary / 2) pairs, written from `offset`
 */
export function ropeAngles(
  rope: RopeConfig,
  position: number,
  out: Float32Array,
  offset: number,
): void {
  const { inverseFrequencies, attentionFactor } = rope;
  for (let i = 0; i < inverseFrequencies.length; i++) {
    const angle = position * inverseFrequencies[i]!;
    out[offset + 2 * i] = Math.cos(angle) * attentionFactor;
    out[offset + 2 * i + 1] = Math.sin(angle) * attentionFactor;
  }
}
