/**
 * Attention of every layer over the pages of the cache: rotation and writing of the new rows, and
 * attention over all rows of a sequence.
 *
 * @module
 */
import { dispatch, type Kernel } from "../gpu/kernels.ts";
import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  NO_SPLIT,
} from "../gpu/ops/attention.ts";
import { ROPE_PARAMS, ropeSpec } from "../gpu/ops/rope.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import {
  type ActivationBuffers,
  attentionVariant,
  type ForwardOptions,
  maxSplits,
  type StepKind,
} from "./forward_parts.ts";

interface LayerGroups {
  readonly rope: GPUBindGroup;
  readonly attend: Readonly<Record<StepKind, GPUBindGroup>>;
}

/** What attention is built from beside the options of the forward pass. */
export interface AttentionParts {
  readonly options: ForwardOptions;
  readonly activations: ActivationBuffers;
  /** Gains of the head norms of a layer; only of models that have them. */
  readonly headGains: (layer: number) => GPUBuffer | undefined;
}

/** Encodes attention over the cache. */
export class Attention {
  readonly #options: ForwardOptions;
  readonly #rope: Kernel;
  readonly #attend: Readonly<Record<StepKind, { variant: AttentionVariant; kernel: Kernel }>>;
  readonly #merge: Kernel;
  readonly #mergeGroup: GPUBindGroup;
  readonly #layers: readonly LayerGroups[];
  readonly #uniforms: readonly GPUBuffer[];

  private constructor(
    { options, activations, headGains }: AttentionParts,
    rope: Kernel,
    attend: Readonly<Record<StepKind, { variant: AttentionVariant; kernel: Kernel }>>,
    merge: Kernel,
  ) {
    const { kernels, config, kv, plan, step, rows, angles } = options;
    const { qkv, attended, partial } = activations;
    const { numHeads, numKvHeads } = config;
    this.#options = options;
    this.#rope = rope;
    this.#attend = attend;
    this.#merge = merge;
    const ropeParams = kernels.uniform(
      "rope params",
      ROPE_PARAMS.pack({
        num_heads: numHeads,
        num_kv_heads: numKvHeads,
        rotary: config.rope.dimensions,
        max_pages: kv.maxPages,
        eps: config.rmsNormEps,
      }),
    );
    const paramsOf = (splitKeys: number) =>
      kernels.uniform(
        "attention params",
        attentionParams({
          numHeads,
          numKvHeads,
          maxPages: kv.maxPages,
          maxSplits: maxSplits(options),
          splitKeys,
        }),
      );
    const params = { decode: paramsOf(plan.attentionSplit), prefill: paramsOf(NO_SPLIT) };
    this.#uniforms = [ropeParams, params.decode, params.prefill];
    this.#mergeGroup = kernels.bind(merge, [partial, rows, attended, params.decode, step]);
    this.#layers = Array.from({ length: config.numLayers }, (_, layer) => {
      const gains = headGains(layer);
      const cache = [kv.keys(layer), kv.values(layer)] as const;
      const group = (kind: StepKind) =>
        kernels.bind(attend[kind].kernel, [
          qkv,
          ...cache,
          kv.table(layer),
          rows,
          attended,
          partial,
          params[kind],
          step,
        ]);
      return {
        rope: kernels.bind(rope, [
          qkv,
          rows,
          angles,
          kv.table(layer),
          ...cache,
          ...(gains === undefined ? [] : [gains]),
          ropeParams,
          step,
        ]),
        attend: { decode: group("decode"), prefill: group("prefill") },
      };
    });
  }

  /** Compiles the kernels and builds the bind groups. */
  static async create(parts: AttentionParts): Promise<Attention> {
    const { kernels, plan, config, kvType } = parts.options;
    const lanes = plan.rowLanes;
    const attend = async (kind: StepKind) => {
      const variant = attentionVariant(parts.options, kind);
      return { variant, kernel: await kernels.compile(attentionSpec(variant)) };
    };
    const rope = await kernels.compile(ropeSpec({
      headDim: config.headDim,
      pairing: config.rope.pairing,
      qkNorm: config.qkNorm,
      kvType,
      pageSize: BLOCK_ROWS,
      lanes,
      subgroups: plan.subgroups,
    }));
    const kinds = { decode: await attend("decode"), prefill: await attend("prefill") };
    const merge = await kernels.compile(attentionMergeSpec({ headDim: config.headDim, lanes }));
    return new Attention(parts, rope, kinds, merge);
  }

  /** Splits that decode attention needs for a sequence whose newest token is at `position`. */
  splitsFor(position: number): number {
    return Math.floor(position / this.#options.plan.attentionSplit) + 1;
  }

  /** Rotates q and k, and writes k and v of the step's rows to their pages. */
  encodeRope(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
  ): void {
    const { numHeads, numKvHeads } = this.#options.config;
    const workgroups = numRows * (numHeads + 2 * numKvHeads);
    dispatch(pass, this.#rope, this.#layers[layer]!.rope, workgroups, stepOffset);
  }

  /**
   * Every row attends to all rows of its sequence up to its own.
   *
   * @param numSplits Of decode attention, for the longest sequence; as in the step's uniform.
   */
  encodeAll(
    pass: GPUComputePassEncoder,
    kind: StepKind,
    layer: number,
    numRows: number,
    numSplits: number,
    stepOffset: number,
  ): void {
    const { numHeads, numKvHeads } = this.#options.config;
    const { variant, kernel } = this.#attend[kind];
    const groups = this.#layers[layer]!;
    const workgroups = attentionWorkgroups(variant, numKvHeads, numRows, numSplits);
    dispatch(pass, kernel, groups.attend[kind], workgroups, stepOffset);
    if (numSplits > 1) {
      dispatch(pass, this.#merge, this.#mergeGroup, numRows * numHeads, stepOffset);
    }
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#uniforms) buffer.destroy();
  }
}
