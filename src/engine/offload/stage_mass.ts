/**
 * Attention that rows on the stage get from a row of a decode step, added to what they had: for
 * policies that count it.
 *
 * @module
 */
import type { ImportanceStore } from "../../butler/importance_store.ts";
import { dispatch, type Kernel } from "../../gpu/kernels.ts";
import { lseInQkv } from "../../gpu/ops/attention.ts";
import { ROW_KEEPS } from "../../gpu/ops/list_params.ts";
import { listMassSpec, listMassWorkgroups, MASS_PARAMS } from "../../gpu/ops/list_mass.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import type { Stage } from "../../kv/stage.ts";
import { attendedForm } from "../../butler/scorers/mass.ts";
import type { ForwardOptions } from "../forward_parts.ts";
import type { Submission } from "../submission.ts";

/** What {@linkcode StageMass} is made of. */
export interface StageMassOptions {
  readonly forward: ForwardOptions;
  /** (rows, heads + 2 KV heads, head size) f32. */
  readonly qkv: GPUBuffer;
  readonly importance: ImportanceStore;
  readonly stage: Stage;
  /** Row table and selection of a pass over the stage: one row has a list there. */
  readonly rows: GPUBuffer;
  readonly selection: GPUBuffer;
  readonly selectionStride: number;
}

/** Sums of rows on the stage. */
export class StageMass implements Disposable {
  readonly #options: StageMassOptions;
  readonly #kernel: Kernel;
  readonly #params: GPUBuffer;
  /** (KV heads, rows of the stage) u32: positions of the rows of the stage's lists. */
  readonly #positions: GPUBuffer;
  /** (max pages) u32: pages of the sequence's sums. */
  readonly #pages: GPUBuffer;
  #groups: GPUBindGroup[] = [];

  private constructor(options: StageMassOptions, kernel: Kernel) {
    const { forward: { kernels, config, plan }, importance, stage, selectionStride } = options;
    const { numHeads, numKvHeads } = config;
    const capacity = stage.capacity * BLOCK_ROWS;
    this.#options = options;
    this.#kernel = kernel;
    this.#positions = kernels.storage("stage positions", numKvHeads * capacity * 4);
    this.#pages = kernels.storage("stage mass pages", importance.maxPages * 4);
    this.#params = kernels.uniform(
      "stage mass params",
      MASS_PARAMS.pack({
        num_heads: numHeads,
        num_kv_heads: numKvHeads,
        // The row of a pass is of slot 0 there.
        max_pages: importance.maxPages,
        split_keys: plan.attentionSplit,
        selection_stride: selectionStride,
        list_capacity: capacity,
        lse_offset: lseInQkv(config).lseOffset,
      }),
    );
  }

  /** Compiles what is not there yet. */
  static async create(options: StageMassOptions): Promise<StageMass> {
    const { forward: { kernels, config, kvType, plan }, importance } = options;
    const spec = listMassSpec({
      ...attendedForm({ kernels, config, kvType, plan }, importance.words),
      keeps: ROW_KEEPS.listedMass,
    });
    return new StageMass(options, await kernels.compile(spec));
  }

  /** The layers of the importance store are other buffers from now on. */
  unbind(): void {
    this.#groups = [];
  }

  /** What passes from here on is of this slot. */
  view(submission: Submission, slot: number): void {
    const { pageTable, maxPages } = this.#options.importance;
    submission.copy(pageTable, slot * maxPages * 4, this.#pages, 0, maxPages * 4);
  }

  /** @param positions By KV head: of the rows of the stage's list. */
  writePositions(positions: readonly Uint32Array<ArrayBuffer>[]): void {
    const { forward: { kernels }, stage } = this.#options;
    const { queue } = kernels.device;
    positions.forEach((list, head) => {
      // Writing nothing ends the process in Deno.
      if (list.length === 0) return;
      queue.writeBuffer(this.#positions, head * stage.capacity * BLOCK_ROWS * 4, list);
    });
  }

  /** After the attention of the layer, which has left the sums of the row's weights. */
  encode(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    splits: number,
    stepOffset: number,
  ): void {
    const { numKvHeads } = this.#options.forward.config;
    const count = listMassWorkgroups(numKvHeads, numRows, splits);
    dispatch(pass, this.#kernel, this.#group(layer), count, stepOffset);
  }

  #group(layer: number): GPUBindGroup {
    const { forward: { kernels, step }, qkv, importance, stage, rows, selection } = this.#options;
    return this.#groups[layer] ??= kernels.bind(this.#kernel, [
      qkv,
      stage.keys,
      stage.table,
      rows,
      selection,
      this.#positions,
      this.#pages,
      importance.layer(layer),
      this.#params,
      step,
    ]);
  }

  [Symbol.dispose](): void {
    for (const buffer of [this.#positions, this.#pages, this.#params]) buffer.destroy();
  }
}
