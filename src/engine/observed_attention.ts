/**
 * Prefill attention that also says what the sum of each row's weights was, for policies that count the
 * attention that rows of the prompt get: made when the first sequence needs it.
 *
 * @module
 */
import { dispatch, type Kernel } from "../gpu/kernels.ts";
import {
  attentionMergeSpec,
  attentionParams,
  attentionWorkgroups,
  NO_SPLIT,
  partialStride,
} from "../gpu/ops/attention.ts";
import type { Forward } from "./forward.ts";

/** Attention of prefill chunks whose rows are on the device. */
export class ObservedAttention {
  readonly #forward: Forward;
  readonly #merge: Kernel;
  readonly #mergeGroup: GPUBindGroup;
  readonly #groups: readonly GPUBindGroup[];
  readonly #buffers: readonly GPUBuffer[];

  private constructor(forward: Forward, maxPrefill: number, lse: GPUBuffer, merge: Kernel) {
    const { kernels, config, kv, rows, step } = forward.options;
    const { numHeads, numKvHeads, headDim, numLayers } = config;
    const { qkv, attended } = forward.activations;
    this.#forward = forward;
    this.#merge = merge;
    const bytes = maxPrefill * numHeads * partialStride(headDim) * 4;
    const partial = kernels.storage("observed partial", bytes);
    const params = kernels.uniform(
      "observed attention params",
      attentionParams({
        numHeads,
        numKvHeads,
        maxPages: kv.maxPages,
        maxSplits: 1,
        splitKeys: NO_SPLIT,
        partialOnly: true,
      }),
    );
    this.#buffers = [partial, params];
    this.#mergeGroup = kernels.bind(merge, [partial, rows, attended, lse, params, step]);
    this.#groups = Array.from(
      { length: numLayers },
      (_, layer) =>
        kernels.bind(forward.attention.prefill.kernel, [
          qkv,
          kv.keys(layer),
          kv.values(layer),
          kv.table(layer),
          rows,
          attended,
          partial,
          params,
          step,
        ]),
    );
  }

  /**
   * Compiles what is not there yet.
   *
   * @param lse (maxPrefill, heads) f32: where maximum + log(normaliser) of each head of a row go.
   */
  static async create(
    forward: Forward,
    maxPrefill: number,
    lse: GPUBuffer,
  ): Promise<ObservedAttention> {
    const { kernels, config: { headDim }, plan } = forward.options;
    const spec = attentionMergeSpec({ headDim, lanes: plan.rowLanes, lse: true });
    return new ObservedAttention(forward, maxPrefill, lse, await kernels.compile(spec));
  }

  /** Every row of a chunk attends to all rows of its sequence up to its own. */
  encode(pass: GPUComputePassEncoder, layer: number, numRows: number): void {
    const { numHeads, numKvHeads } = this.#forward.options.config;
    const { variant, kernel } = this.#forward.attention.prefill;
    const workgroups = attentionWorkgroups(variant, numKvHeads, numRows, 1);
    dispatch(pass, kernel, this.#groups[layer]!, workgroups, 0);
    dispatch(pass, this.#merge, this.#mergeGroup, numRows * numHeads, 0);
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }
}
