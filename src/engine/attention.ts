/**
 * Attention of every layer over the pages of the cache: rotation and writing of the new rows, and
 * attention over all rows of a sequence.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel } from "../gpu/kernels.ts";
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
  readonly #parts: AttentionParts;
  readonly #options: ForwardOptions;
  readonly #rope: Kernel;
  readonly #attend: Readonly<Record<StepKind, { variant: AttentionVariant; kernel: Kernel }>>;
  readonly #merge: Kernel;
  readonly #mergeGroup: GPUBindGroup;
  readonly #layers: readonly LayerGroups[];
  readonly #uniforms: readonly GPUBuffer[];

  private constructor(
    parts: AttentionParts,
    rope: Kernel,
    attend: Readonly<Record<StepKind, { variant: AttentionVariant; kernel: Kernel }>>,
    merge: Kernel,
  ) {
    const { options, activations } = parts;
    const { kernels, config, kv, plan, step, rows } = options;
    const { qkv, attended, partial } = activations;
    const { numHeads, numKvHeads } = config;
    this.#parts = parts;
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
        rope: this.bindRope(layer, kv.table(layer), ...cache),
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

  /** The kernel of prefill attention, for other places of keys. */
  get prefill(): { readonly variant: AttentionVariant; readonly kernel: Kernel } {
    return this.#attend.prefill;
  }

  /** Binds the rotation of a layer to another place of keys and values. */
  bindRope(layer: number, table: BufferPart, keys: GPUBuffer, values: GPUBuffer): GPUBindGroup {
    const { kernels, rows, angles, step } = this.#options;
    const gains = this.#parts.headGains(layer);
    return kernels.bind(this.#rope, [
      this.#parts.activations.qkv,
      rows,
      angles,
      table,
      keys,
      values,
      ...(gains === undefined ? [] : [gains]),
      this.#uniforms[0]!,
      step,
    ]);
  }

  /** Splits that decode attention needs for a sequence whose newest token is at `position`. */
  splitsFor(position: number): number {
    return Math.floor(position / this.#options.plan.attentionSplit) + 1;
  }

  /**
   * Rotates q and k, and writes k and v of the step's rows to their pages.
   *
   * @param group Of {@linkcode bindRope}, where they go elsewhere.
   */
  encodeRope(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
    group: GPUBindGroup = this.#layers[layer]!.rope,
  ): void {
    const { numHeads, numKvHeads } = this.#options.config;
    dispatch(pass, this.#rope, group, numRows * (numHeads + 2 * numKvHeads), stepOffset);
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
