/**
 * What selection needs of the device, for as long as some sequence selects: what is kept of every row,
 * lists and what they are made in, row tables, and a scorer for each way of scoring that is in use.
 * Buffers grow; what binds them is made again then.
 *
 * @module
 */
import { LIST_MODES } from "../gpu/ops/list_params.ts";
import type { Calibration } from "./calibration/file.ts";
import { ImportanceStore } from "./importance_store.ts";
import type { Predictor } from "./predictor/predictor.ts";
import { servedLayers } from "./predictor/shape.ts";
import { Producers } from "./producers.ts";
import { type RowTableOptions, RowTables } from "./row_tables.ts";
import { SCORER_KINDS, type ScorerKind } from "./scorers/kinds.ts";
import { createScorer } from "./scorers/mod.ts";
import type { KeyTransit, Scorer, ScorerOptions } from "./scorers/types.ts";
import { SelectionBuffers } from "./selection_buffers.ts";

/** What {@linkcode SelectionResources} are made of. */
export interface SelectionResourceOptions extends ScorerOptions {
  /** Rows of a decode step, at most, and rows whose importance is written together. */
  readonly maxSequences: number;
  readonly maxStored: number;
  readonly calibration: Calibration | null;
  readonly predictor: Predictor | null;
  /** Offset of the step's uniform that counts the rows of a store's table, by kind. */
  readonly storeOffset: (kind: number) => number;
  /** Told when buffers that others bind are other ones. */
  readonly onRebind: () => void;
}

const LEAST_CAPACITY = 256;

/** Buffers and scorers. */
export class SelectionResources implements Disposable {
  readonly importance: ImportanceStore;
  readonly tables: RowTables;
  /** (rows of a prefill chunk, heads) f32: logarithm of the sum of a row's weights. */
  readonly lse: GPUBuffer;
  readonly #options: SelectionResourceOptions;
  readonly #scorers = new Map<ScorerKind, Scorer>();
  #buffers: SelectionBuffers;
  #matrices: GPUBuffer[] | null = null;
  #producers: Producers | null = null;
  readonly #served: readonly (readonly number[])[];
  #transit: KeyTransit | null = null;
  #generation: number;

  constructor(options: SelectionResourceOptions, slots: Omit<RowTableOptions, "trashSlot">) {
    const { kernels, config, kvType, kv, maxSequences, maxStored, calibration, predictor } =
      options;
    this.#options = options;
    this.lse = kernels.storage("prefill lse", maxStored * config.numHeads * 4);
    this.importance = new ImportanceStore(kernels, {
      numLayers: config.numLayers,
      numKvHeads: config.numKvHeads,
      headDim: config.headDim,
      kvType,
      keys: options.importanceKeys,
      numSlots: kv.numSlots,
      contextLength: kv.contextLength,
    });
    const { trashSlot } = this.importance;
    this.tables = new RowTables(kernels, maxSequences, maxStored, { ...slots, trashSlot });
    this.#generation = this.importance.generation;
    this.#buffers = this.#makeBuffers(LEAST_CAPACITY);
    if (calibration !== null) this.#matrices = this.#upload(calibration);
    this.#served = Array.from(
      { length: predictor === null ? 0 : config.numLayers },
      (_, layer) => servedLayers(predictor!.shape, layer),
    );
  }

  /** Lists and what they are made in. */
  get buffers(): SelectionBuffers {
    return this.#buffers;
  }

  /** Whether a way of scoring is in use. */
  has(kind: ScorerKind): boolean {
    return this.#scorers.has(kind);
  }

  /** A scorer that {@linkcode prepare} has made. */
  scorer(kind: ScorerKind): Scorer {
    return this.#scorers.get(kind)!;
  }

  /** Offset of the step's uniform that counts the rows of a store's table. */
  storeOffset(kind: number): number {
    return this.#options.storeOffset(kind);
  }

  /** Writes what is kept of the rows of a kind's table, if there are any. */
  encodeStore(
    pass: GPUComputePassEncoder,
    kind: ScorerKind,
    layer: number,
    from: "cache" | "chunk",
  ): void {
    const index = SCORER_KINDS.indexOf(kind);
    const count = this.tables.storeCounts[index]!;
    if (count === 0) return;
    const offset = this.storeOffset(index);
    this.scorer(kind).encodeStore(pass, layer, count, offset, from);
  }

  /** Some sequence is below the device: scorers can read keys that only pass through. */
  useTransit(transit: KeyTransit): void {
    if (this.#transit !== null) return;
    this.#transit = transit;
    this.#rebind();
  }

  /** Compiles and binds what a way of scoring needs. */
  async prepare(kind: ScorerKind): Promise<void> {
    if (this.#scorers.has(kind)) return;
    const { predictor } = this.#options;
    if (kind === "predicted" && predictor !== null) {
      const maxRows = this.#options.maxSequences;
      this.#producers ??= await Producers.create({ ...this.#options, predictor, maxRows });
    }
    const buffers = {
      selection: this.#buffers,
      importance: this.importance,
      matrices: this.#matrices,
      producers: this.#producers,
      transit: this.#transit,
      lse: this.lse,
    };
    const tables = this.tables.of(kind);
    this.#scorers.set(kind, await createScorer(kind, this.#options, buffers, tables));
  }

  /** Layers that the predictor's producer at this one serves; none without one. */
  servedBy(layer: number): readonly number[] {
    return this.#served[layer] ?? [];
  }

  /**
   * Makes room for lists of so many rows.
   *
   * @throws {DeviceError} If the device has none; what there was stays.
   */
  async growLists(rows: number): Promise<void> {
    const { listCapacity } = this.#buffers.sizes;
    if (rows <= listCapacity) return;
    const bigger = await this.#options.kernels.tryBuffers(
      `lists of ${rows} rows`,
      () => this.#makeBuffers(Math.max(rows, listCapacity * 2), this.#buffers),
      (made) => made[Symbol.dispose](),
    );
    const { device } = this.#options.kernels;
    const encoder = device.createCommandEncoder({ label: "selections" });
    bigger.copyFrom(this.#buffers, encoder);
    device.queue.submit([encoder.finish()]);
    this.#buffers[Symbol.dispose]();
    this.#buffers = bigger;
    this.#rebind();
  }

  /** To be called when pages of the importance store were taken: it may have grown. */
  checkGeneration(): void {
    if (this.#generation === this.importance.generation) return;
    this.#generation = this.importance.generation;
    this.#rebind();
  }

  /** Buffers and a scorer of their own for exact scores, beside those in use. The caller disposes. */
  async createTruth(): Promise<{ scorer: Scorer; buffers: SelectionBuffers }> {
    const buffers = this.#makeBuffers(this.#buffers.sizes.listCapacity);
    const { importance } = this;
    const scorer = await createScorer(
      "exact",
      this.#options,
      {
        selection: buffers,
        importance,
        matrices: null,
        producers: null,
        transit: this.#transit,
        lse: this.lse,
      },
      this.tables.of("exact"),
    );
    return { scorer, buffers };
  }

  /** Lets one slot alone be scored in buffers of {@linkcode createTruth}. */
  writeTruth(
    buffers: SelectionBuffers,
    layer: number,
    slot: number,
    recipe: { from: number; windowRows: number; budgets: readonly number[] },
  ): void {
    const index = SCORER_KINDS.indexOf("exact");
    for (let other = 0; other < buffers.sizes.numSlots; other++) {
      buffers.recipeWords(index, layer, other)[0] = LIST_MODES.rest;
    }
    const { from, windowRows, budgets } = recipe;
    buffers.recipeWords(index, layer, slot).set([
      LIST_MODES.exact,
      from,
      windowRows,
      0,
      ...budgets,
    ]);
    buffers.sendRecipes();
  }

  /** @param like Has room for the same things. */
  #makeBuffers(listCapacity: number, like?: SelectionBuffers): SelectionBuffers {
    const { kernels, config, kv, maxSequences } = this.#options;
    const buffers = new SelectionBuffers(kernels, {
      numLayers: config.numLayers,
      numKvHeads: config.numKvHeads,
      numSlots: kv.numSlots,
      maxRows: maxSequences,
      contextLength: kv.contextLength,
      listCapacity,
      numKinds: SCORER_KINDS.length,
    }, config.numHeads);
    if (like?.isListed) buffers.listed(0);
    return buffers;
  }

  /** Bind groups hold buffers that are gone: they are made again when they are needed. */
  #rebind(): void {
    for (const scorer of this.#scorers.values()) scorer[Symbol.dispose]();
    this.#scorers.clear();
    this.#options.onRebind();
  }

  #upload({ projection }: Calibration): GPUBuffer[] {
    const { kernels, config } = this.#options;
    const size = config.numKvHeads * config.headDim * 16;
    return Array.from({ length: config.numLayers }, (_, layer) => {
      const buffer = kernels.storage(`projection ${layer}`, size * 4);
      kernels.device.queue.writeBuffer(buffer, 0, projection, layer * size, size);
      return buffer;
    });
  }

  [Symbol.dispose](): void {
    for (const scorer of this.#scorers.values()) scorer[Symbol.dispose]();
    this.tables[Symbol.dispose]();
    this.#matrices?.forEach((buffer) => buffer.destroy());
    this.#producers?.[Symbol.dispose]();
    this.lse.destroy();
    this.#buffers[Symbol.dispose]();
    this.importance[Symbol.dispose]();
  }
}
