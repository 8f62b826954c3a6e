/**
 * Measures, on sampled decode steps, what a selection is worth: the share of the exact attention
 * mass that the attended rows cover, and how many of the chosen rows are among the true best.
 *
 * The covered mass of a query head is e^(lse of the attended rows - lse of all rows), where lse is
 * the logarithm of the sum of e^(q . k / sqrt(head size)).
 *
 * @module
 */
import type { HeadLists } from "../butler/parked_lists.ts";
import type { Scorer } from "../butler/scorers/types.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import type { Selector } from "../butler/selector.ts";
import type { SelectedView } from "../butler/slots.ts";
import { dispatch, type Kernel } from "../gpu/kernels.ts";
import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  lseInQkv,
} from "../gpu/ops/attention.ts";
import { GrowingReadback } from "../gpu/growing_readback.ts";
import { Readback } from "../gpu/readback.ts";
import type { Forward } from "./forward.ts";
import { attentionVariant, maxSplits } from "./forward_parts.ts";
import type { OffloadSteps } from "./offload/offload_steps.ts";
import type { Submission } from "./submission.ts";

/** Sums over sampled steps. */
export interface RecallSums {
  /** Shares of mass, over query heads and layers; and how many there are. */
  mass: number;
  heads: number;
  /** Shares of chosen rows that are among the true best, over lists; and how many there are. */
  overlap: number;
  lists: number;
  steps: number;
}

/** A row of a sampled step. */
export interface SampledRow {
  /** Index in the step. */
  readonly row: number;
  readonly slot: number;
  /** Rows, the newest included. */
  readonly n: number;
  readonly below: boolean;
}

/** What {@linkcode RecallMeter} is made of. */
export interface RecallOptions {
  readonly forward: Forward;
  readonly selector: Selector;
  readonly readback?: "sync" | "awaited";
}

/** f32 of each head of a row, somewhere in a buffer. */
interface LsePlace {
  readonly buffer: GPUBuffer;
  /** f32 from row to row, and before the first head. */
  readonly stride: number;
  readonly offset: number;
}

/** Kernels and buffers of measurements; only used by steps that are sampled. */
export class RecallMeter {
  readonly #options: RecallOptions;
  readonly #variant: AttentionVariant;
  readonly #attend: Kernel;
  readonly #merge: Kernel;
  readonly #params: GPUBuffer;
  readonly #carry: GPUBuffer;
  readonly #lse: GPUBuffer;
  /** (layers, 2, rows, heads) f32: all rows, attended rows. */
  readonly #found: GPUBuffer;
  readonly #groups: GPUBindGroup[];
  readonly #mergeGroup: GPUBindGroup;
  readonly #results: Readback;
  #truth: { scorer: Scorer; buffers: SelectionBuffers } | null = null;
  readonly #lists: GrowingReadback;

  private constructor(
    options: RecallOptions,
    variant: AttentionVariant,
    attend: Kernel,
    merge: Kernel,
    results: Readback,
  ) {
    const { forward } = options;
    const { kernels, config, kv, plan, rows, step, maxSequences } = forward.options;
    const { qkv, attended, partial } = forward.activations;
    const { numHeads, numKvHeads, headDim, numLayers } = config;
    this.#options = options;
    this.#variant = variant;
    this.#attend = attend;
    this.#merge = merge;
    this.#results = results;
    this.#lists = new GrowingReadback(kernels.device, options.readback);
    const heads = maxSequences * numHeads;
    this.#carry = kernels.storage("recall carry", heads * (headDim + 4) * 4);
    this.#lse = kernels.storage("recall lse", heads * 4);
    this.#found = kernels.storage("recall", numLayers * 2 * heads * 4);
    this.#params = kernels.uniform(
      "recall params",
      attentionParams({
        numHeads,
        numKvHeads,
        maxPages: kv.maxPages,
        maxSplits: maxSplits(forward.options),
        splitKeys: plan.attentionSplit,
        partialOnly: true,
        firstPass: true,
        lastPass: true,
      }),
    );
    this.#groups = Array.from({ length: numLayers }, (_, layer) =>
      kernels.bind(attend, [
        qkv,
        kv.keys(layer),
        kv.values(layer),
        kv.table(layer),
        rows,
        attended,
        partial,
        this.#params,
        step,
      ]));
    this.#mergeGroup = kernels.bind(merge, [
      partial,
      rows,
      attended,
      this.#carry,
      this.#lse,
      this.#params,
      step,
    ]);
  }

  static async create(options: RecallOptions): Promise<RecallMeter> {
    const { kernels, config, plan, maxSequences } = options.forward.options;
    const variant = attentionVariant(options.forward.options, "decode");
    const merge = { headDim: config.headDim, lanes: plan.rowLanes, carry: true, lse: true };
    return new RecallMeter(
      options,
      variant,
      await kernels.compile(attentionSpec(variant)),
      await kernels.compile(attentionMergeSpec(merge)),
      await Readback.create(
        kernels.device,
        config.numLayers * 2 * maxSequences * config.numHeads * 4,
        options.readback,
      ),
    );
  }

  /** Makes ready for a step: scorers of the size that lists have now. */
  async prepare(): Promise<void> {
    const { selector } = this.#options;
    if (this.#truth?.buffers.sizes.listCapacity === selector.buffers.sizes.listCapacity) return;
    this.#dropTruth();
    this.#truth = await selector.resources.createTruth();
  }

  /**
   * Before attention in a layer: exact attention over all rows, and the true best.
   *
   * @param splits Of the longest row.
   */
  async encodeExact(
    submission: Submission,
    layer: number,
    numRows: number,
    sampled: readonly SampledRow[],
    splits: number,
    stepOffset: number,
    offload: OffloadSteps | null,
  ): Promise<void> {
    const { numHeads, numKvHeads } = this.#options.forward.options.config;
    if (sampled.some(({ below }) => !below)) {
      const { pass } = submission;
      const count = attentionWorkgroups(this.#variant, numKvHeads, numRows, splits);
      dispatch(pass, this.#attend, this.#groups[layer]!, count, stepOffset);
      dispatch(pass, this.#merge, this.#mergeGroup, numRows * numHeads, stepOffset);
      for (const { row, below } of sampled) {
        const all = { buffer: this.#lse, stride: numHeads, offset: 0 };
        if (!below) this.#keep(submission, all, layer, 0, row);
      }
    }
    for (const row of sampled) {
      try {
        if (row.below) {
          await offload!.keys.attendAll(submission, layer, numRows, row);
          this.#keep(submission, this.#attended, layer, 0, row.row);
        }
        const view = this.#options.selector.view(row.slot)!.layer(layer);
        if (view.kind === "selected") {
          await this.#scoreTruth(submission, layer, numRows, row, view, stepOffset, offload);
        }
      } catch (error) {
        if (!row.below) throw error;
        offload!.fail(row.slot, error);
      }
    }
  }

  /** After attention in a layer, which left its lse. */
  encodeAttended(submission: Submission, layer: number, sampled: readonly SampledRow[]): void {
    for (const { row } of sampled) this.#keep(submission, this.#attended, layer, 1, row);
  }

  /**
   * Reads a sampled step and adds it up, by slot.
   *
   * @param usedOf The lists in use, where they are not those that were picked last.
   */
  async finish(
    submission: Submission,
    sampled: readonly SampledRow[],
    sumsOf: (slot: number) => RecallSums,
    usedOf: (slot: number, layer: number) => HeadLists | null,
  ): Promise<void> {
    const { forward, selector } = this.#options;
    const { config, maxSequences } = forward.options;
    const { numLayers, numHeads, numKvHeads } = config;
    const heads = maxSequences * numHeads;
    submission.copy(this.#found, 0, this.#results.target, 0, numLayers * 2 * heads * 4);
    submission.submit();
    const bytes = await this.#results.read(numLayers * 2 * heads * 4);
    const lse = new Float32Array(bytes.slice().buffer);
    for (const { row, slot } of sampled) {
      const sums = sumsOf(slot);
      const view = selector.view(slot)!;
      sums.steps++;
      for (let layer = 0; layer < numLayers; layer++) {
        if (view.layer(layer).kind === "all") continue;
        for (let head = 0; head < numHeads; head++) {
          const at = layer * 2 * heads + row * numHeads + head;
          sums.mass += Math.min(1, Math.exp(lse[at + heads]! - lse[at]!));
          sums.heads++;
        }
        if (view.layer(layer).kind !== "selected") continue;
        const [picked, best] = await this.#readLists(submission, layer, slot);
        const chosen = usedOf(slot, layer) ?? picked;
        for (let head = 0; head < numKvHeads; head++) {
          const wanted = best[head]!;
          if (wanted.length === 0) continue;
          const found = new Set(chosen[head]!);
          const hits = wanted.reduce((sum, position) => sum + Number(found.has(position)), 0);
          sums.overlap += hits / wanted.length;
          sums.lists++;
        }
      }
    }
  }

  async #scoreTruth(
    submission: Submission,
    layer: number,
    numRows: number,
    { slot, n, below }: SampledRow,
    { recipe, windowStart }: SelectedView,
    stepOffset: number,
    offload: OffloadSteps | null,
  ): Promise<void> {
    const { scorer, buffers } = this.#truth!;
    const { selector } = this.#options;
    const from = recipe.from * recipe.unit;
    // Where the window slides it may have left rows behind that nobody could choose: they count too.
    const windowRows = n - windowStart;
    const budgets = recipe.budgets.map((units) => units * recipe.unit);
    submission.submit();
    selector.resources.writeTruth(buffers, layer, slot, { from, windowRows, budgets });
    if (!below) {
      scorer.encodeSelect(submission.pass, layer, numRows, windowStart, stepOffset);
      return;
    }
    const { keys } = offload!;
    await keys.scoreKeys(submission, layer, numRows, slot, windowStart, scorer, stepOffset);
  }

  /** Positions of the chosen rows and of the true best ones, by KV head. */
  async #readLists(
    submission: Submission,
    layer: number,
    slot: number,
  ): Promise<[chosen: Uint32Array[], best: Uint32Array[]]> {
    const { selector } = this.#options;
    const { numKvHeads, listCapacity } = selector.buffers.sizes;
    const words = numKvHeads * (listCapacity + 1);
    const readback = await this.#lists.room(2 * words * 4);
    const { target } = readback;
    [selector.buffers, this.#truth!.buffers].forEach((buffers, index) => {
      const counts = buffers.counts(layer);
      const picked = buffers.picked(layer);
      const at = index * words * 4;
      const countBytes = numKvHeads * 4;
      submission.copy(counts.buffer, counts.offset + slot * countBytes, target, at, countBytes);
      const listBytes = numKvHeads * listCapacity * 4;
      const source = picked.offset + slot * listBytes;
      submission.copy(picked.buffer, source, target, at + countBytes, listBytes);
    });
    submission.submit();
    const all = new Uint32Array((await readback.read(2 * words * 4)).slice().buffer);
    const lists = (index: number) =>
      Array.from({ length: numKvHeads }, (_, head) => {
        const at = index * words;
        const start = at + numKvHeads + head * listCapacity;
        return all.subarray(start, start + all[at + head]!);
      });
    return [lists(0), lists(1)];
  }

  /** Keeps the lse of a row: `which` 0 of all rows, 1 of the attended ones. */
  #keep(submission: Submission, from: LsePlace, layer: number, which: number, row: number): void {
    const { config, maxSequences } = this.#options.forward.options;
    const heads = maxSequences * config.numHeads;
    const at = ((layer * 2 + which) * heads + row * config.numHeads) * 4;
    const source = (row * from.stride + from.offset) * 4;
    submission.copy(from.buffer, source, this.#found, at, config.numHeads * 4);
  }

  /** Where attention over a selection leaves it. */
  get #attended(): LsePlace {
    const { forward } = this.#options;
    const { lseStride, lseOffset } = lseInQkv(forward.options.config);
    return { buffer: forward.activations.qkv, stride: lseStride, offset: lseOffset };
  }

  #dropTruth(): void {
    this.#truth?.scorer[Symbol.dispose]();
    this.#truth?.buffers[Symbol.dispose]();
    this.#truth = null;
  }

  [Symbol.dispose](): void {
    this.#dropTruth();
    for (const buffer of [this.#params, this.#carry, this.#lse, this.#found]) buffer.destroy();
    this.#results[Symbol.dispose]();
    this.#lists[Symbol.dispose]();
  }
}
