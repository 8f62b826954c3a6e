/**
 * Decode attention over what is selected for each slot: made when the first sequence needs it.
 *
 * A step may hold rows that attend to everything and rows that attend to a selection; each has a
 * kernel of its own, which passes over the other's rows, and one merge serves both.
 *
 * @module
 */
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import { type BufferPart, dispatch, type Kernel } from "../gpu/kernels.ts";
import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  lseInQkv,
} from "../gpu/ops/attention.ts";
import {
  type ActivationBuffers,
  attentionVariant,
  type ForwardOptions,
  maxSplits,
} from "./forward_parts.ts";

/** A pass over some of the keys of a row: the first one, the last one, both or neither. */
export interface PassPlace {
  readonly first: boolean;
  readonly last: boolean;
}

/** The one pass that there is. */
export const ONLY_PASS: PassPlace = { first: true, last: true };

/** What a pass over keys reads. */
export interface KeyPlace {
  readonly keys: BufferPart;
  readonly values: BufferPart;
  /** (slots, maxPages) u32 */
  readonly table: BufferPart;
  readonly maxPages: number;
  /** Row table of the step. */
  readonly rows: GPUBuffer;
  /** (slots, selection stride) u32 */
  readonly selection: BufferPart;
  readonly listCapacity: number;
  readonly selectionStride: number;
}

interface Variant {
  readonly variant: AttentionVariant;
  readonly kernel: Kernel;
}

/** Kernels of attention over selections. */
export class SelectedAttention {
  readonly #options: ForwardOptions;
  readonly #activations: ActivationBuffers;
  readonly #rows: Variant;
  readonly #dense: Variant;
  readonly #merge: Kernel;
  readonly #carryMerge: Kernel;
  /** (rows, heads, head size + 4) f32: what passes over other keys left. */
  readonly #carry: GPUBuffer;

  private constructor(
    options: ForwardOptions,
    activations: ActivationBuffers,
    rows: Variant,
    dense: Variant,
    merge: Kernel,
    carryMerge: Kernel,
  ) {
    this.#options = options;
    this.#activations = activations;
    this.#rows = rows;
    this.#dense = dense;
    this.#merge = merge;
    this.#carryMerge = carryMerge;
    const { kernels, config, maxSequences } = options;
    const heads = maxSequences * config.numHeads;
    this.#carry = kernels.storage("attention carry", heads * (config.headDim + 4) * 4);
  }

  /** Compiles the kernels. */
  static async create(
    options: ForwardOptions,
    activations: ActivationBuffers,
  ): Promise<SelectedAttention> {
    const { kernels, plan, config } = options;
    const variantOf = async (keys: "dense" | "rows") => {
      const variant: AttentionVariant = { ...attentionVariant(options, "decode"), keys };
      return { variant, kernel: await kernels.compile(attentionSpec(variant)) };
    };
    const merge = { headDim: config.headDim, lanes: plan.rowLanes, selection: true };
    return new SelectedAttention(
      options,
      activations,
      await variantOf("rows"),
      await variantOf("dense"),
      await kernels.compile(attentionMergeSpec(merge)),
      await kernels.compile(attentionMergeSpec({ ...merge, carry: true, lse: true })),
    );
  }

  /** Binds a place of keys, for as long as its buffers live. */
  bind(place: KeyPlace): BoundAttention {
    const { kernels, config, plan, step } = this.#options;
    const { qkv, attended, partial } = this.#activations;
    const { numHeads, numKvHeads } = config;
    const uniforms: GPUBuffer[] = [];
    const params = (partialOnly: boolean, { first, last }: PassPlace) => {
      const buffer = kernels.uniform(
        "selected attention params",
        attentionParams({
          numHeads,
          numKvHeads,
          maxPages: place.maxPages,
          maxSplits: maxSplits(this.#options),
          splitKeys: plan.attentionSplit,
          selectionStride: place.selectionStride,
          listCapacity: place.listCapacity,
          ...lseInQkv(config),
          partialOnly,
          firstPass: first,
          lastPass: last,
        }),
      );
      uniforms.push(buffer);
      return buffer;
    };
    const whole = params(false, ONLY_PASS);
    const partly = params(true, ONLY_PASS);
    const attend = (kernel: Kernel, uniform: GPUBuffer) =>
      kernels.bind(kernel, [
        qkv,
        place.keys,
        place.values,
        place.table,
        place.rows,
        attended,
        partial,
        place.selection,
        uniform,
        step,
      ]);
    const carried = (at: PassPlace) =>
      kernels.bind(this.#carryMerge, [
        partial,
        place.rows,
        place.selection,
        attended,
        this.#carry,
        // The logarithm of the sum of each head's weights, in place of a key that is cached by now.
        qkv,
        params(true, at),
        step,
      ]);
    const groups = {
      rows: attend(this.#rows.kernel, whole),
      dense: attend(this.#dense.kernel, whole),
      rowsPartial: attend(this.#rows.kernel, partly),
      densePartial: attend(this.#dense.kernel, partly),
      merge: kernels.bind(this.#merge, [
        partial,
        place.rows,
        place.selection,
        attended,
        whole,
        step,
      ]),
      carry: [false, true].map((first) => [false, true].map((last) => carried({ first, last }))),
    };
    return {
      encode: (pass, numRows, work) => {
        const workgroups = (variant: AttentionVariant, splits: number) =>
          attentionWorkgroups(variant, numKvHeads, numRows, splits);
        const { place: at, dense, rows } = work;
        if (dense !== null) {
          const group = at === null ? groups.dense : groups.densePartial;
          const count = workgroups(this.#dense.variant, dense.splits);
          dispatch(pass, this.#dense.kernel, group, count, dense.stepOffset);
        }
        if (rows !== null) {
          const group = at === null ? groups.rows : groups.rowsPartial;
          const count = workgroups(this.#rows.variant, rows.splits);
          dispatch(pass, this.#rows.kernel, group, count, rows.stepOffset);
        }
        const offset = (dense ?? rows)!.stepOffset;
        if (at !== null) {
          const group = groups.carry[Number(at.first)]![Number(at.last)]!;
          dispatch(pass, this.#carryMerge, group, numRows * numHeads, offset);
        } else if (Math.max(dense?.splits ?? 0, rows?.splits ?? 0) > 1) {
          dispatch(pass, this.#merge, groups.merge, numRows * numHeads, offset);
        }
      },
      [Symbol.dispose]: () => uniforms.forEach((buffer) => buffer.destroy()),
    };
  }

  [Symbol.dispose](): void {
    this.#carry.destroy();
  }
}

/** Splits of a kernel's keys, and where the step's uniform says so. */
export interface SplitWork {
  readonly splits: number;
  readonly stepOffset: number;
}

/** Which kernels a pass takes. At least one of them. */
export interface AttentionWork {
  readonly dense: SplitWork | null;
  readonly rows: SplitWork | null;
  /** Null: these are all the keys of every row, and nobody asks for `lse`. */
  readonly place: PassPlace | null;
}

/** Attention with everything bound. */
export interface BoundAttention extends Disposable {
  encode(pass: GPUComputePassEncoder, numRows: number, work: AttentionWork): void;
}

/** The slabs of a layer as a place of keys. */
export function slabPlace(
  { kv, rows }: ForwardOptions,
  selection: SelectionBuffers,
  layer: number,
): KeyPlace {
  return {
    keys: kv.keys(layer),
    values: kv.values(layer),
    table: kv.table(layer),
    maxPages: kv.maxPages,
    rows,
    selection: selection.selection(layer),
    listCapacity: selection.sizes.listCapacity,
    selectionStride: selection.selectionStride,
  };
}
