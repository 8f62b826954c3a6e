/**
 * Selection on the device: keeps what is needed to score the rows of the running sequences, and in
 * each layer chooses rows as their policies say. No score leaves the device.
 *
 * @module
 */
import { SLIDING } from "../gpu/ops/selection.ts";
import { LIST_MODES, PICKS_ONLY } from "../gpu/ops/list_params.ts";
import { WANTS_NEIGHBOURS } from "../gpu/ops/neighbours.ts";
import type { ResidentSpans } from "../kv/offloaded.ts";
import type { ImportanceStore } from "./importance_store.ts";
import type { ParkedLists } from "./parked_lists.ts";
import { observedRows } from "./policies/observed.ts";
import { type SelectorRow, storePositions } from "./row_tables.ts";
import { keepsMass, SCORER_KINDS, SCORER_WORDS, type ScorerKind } from "./scorers/kinds.ts";
import type { KeyTransit, ObservedKeys, Scorer } from "./scorers/types.ts";
import type { SelectionBuffers } from "./selection_buffers.ts";
import { writeHeaders, writeParked, writeSliding } from "./selection_headers.ts";
import { type SelectionResourceOptions, SelectionResources } from "./selection_resources.ts";
import type { KvSettings } from "./settings_types.ts";
import { mostListRows, SlotView } from "./slots.ts";

/** What a selector is built from. */
export interface SelectorOptions extends Omit<SelectionResourceOptions, "maxStored"> {
  /** Rows of a prefill chunk, at most. */
  readonly maxPrefill: number;
  /** Offset of the step's uniform that counts the rows of a store's table, by kind. */
  readonly storeOffset: (kind: number) => number;
  /** Rows of a slot's layer that are on the device; null where all of them are. */
  readonly spansOf: (slot: number, layer: number) => ResidentSpans | null;
}

/** What a decode step does in one layer. */
export interface LayerWork {
  /** Some row attends to everything; some row to a selection. */
  dense: boolean;
  rows: boolean;
  /** Keys of a row at most, of those kinds. */
  denseKeys: number;
  rowsKeys: number;
  /** Some row adds its attention to what its keys had. */
  mass: boolean;
  /** By kind: position up to which there are candidates to score; 0: none. */
  readonly ends: number[];
}

/** What selection knows of a sequence without a slot. */
export interface ParkedSelection extends Disposable {
  readonly entry: Slot;
  /** Of the importance store; null where nothing is kept, or once a slot has them again. */
  pages: Uint32Array | null;
}

interface Slot {
  readonly view: SlotView;
  readonly kind: ScorerKind | null;
  /** Rows whose importance is not written yet begin at `rows`; slots of one sequence share it. */
  readonly stored: { rows: number };
  /** The layers' windows slide from the step after the first selection on. */
  slidesNext: boolean;
}

/** Decode steps after which what is kept of their rows is written, whether it is needed yet or not. */
const STORE_EVERY = 32;

/** Selection for the sequences in the slots of a cache. */
export class Selector {
  readonly #options: SelectorOptions;
  readonly #slots = new Map<number, Slot>();
  readonly #resources: SelectionResources;
  /** Of the prefill chunk: rows of its sequence with it. */
  #chunkEnd = 0;
  /** In this step no row has candidates among the rows of the step itself. */
  #early = true;

  constructor(options: SelectorOptions) {
    const { maxSequences, maxPrefill, spansOf } = options;
    this.#options = options;
    const maxStored = Math.max(maxPrefill, maxSequences * (STORE_EVERY + 1));
    this.#resources = new SelectionResources({ ...options, maxStored }, {
      kindOf: (slot) => this.#slots.get(slot)?.kind ?? null,
      isBelow: (slot) => spansOf(slot, 0) !== null,
    });
  }

  /** Lists and what they are made in. */
  get buffers(): SelectionBuffers {
    return this.#resources.buffers;
  }

  /** What is kept of every row. */
  get importance(): ImportanceStore {
    return this.#resources.importance;
  }

  /** (rows of a prefill chunk, heads) f32: logarithm of the sum of a row's weights. */
  get lse(): GPUBuffer {
    return this.#resources.lse;
  }

  /** Buffers and a scorer of their own for exact scores, beside those in use. */
  get resources(): SelectionResources {
    return this.#resources;
  }

  /** What a slot attends to; undefined for one that attends to everything. */
  view(slot: number): SlotView | undefined {
    return this.#slots.get(slot)?.view;
  }

  /** Slots with a selection. */
  get active(): boolean {
    return this.#slots.size > 0;
  }

  /**
   * Takes a sequence in.
   *
   * @throws {DeviceError} If the device has no room for what its policy keeps of every row.
   */
  async begin(
    slot: number,
    settings: KvSettings,
    maxRows: number,
    transit: KeyTransit | null,
  ): Promise<void> {
    const view = new SlotView(settings, transit !== null, maxRows);
    const { scores, store } = view.policy;
    const kind = scores === "none" ? null : scores;
    try {
      await this.#resources.growLists(mostListRows(settings, maxRows, transit !== null));
      if (transit !== null) this.#resources.useTransit(transit);
      if (store !== "none") await this.importance.begin(slot, maxRows);
      if (store === "mass") this.importance.clear(slot);
      this.#resources.checkGeneration();
      this.#slots.set(slot, { view, kind, stored: { rows: 0 }, slidesNext: false });
      writeHeaders(this.buffers, slot, settings);
    } finally {
      // Buffers may have grown: what others need is bound again too.
      for (const entry of this.#slots.values()) {
        if (entry.kind !== null) await this.#resources.prepare(entry.kind);
      }
    }
  }

  /**
   * Takes the sequence of a slot into another one too, where it goes on from the same rows: its first
   * `numRows`, of which everything is kept.
   */
  alias(slot: number, source: number, numRows: number): void {
    const entry = this.#slots.get(source);
    if (entry === undefined) return;
    const { view: { settings, maxRows }, kind, stored } = entry;
    stored.rows = numRows;
    const view = new SlotView(settings, false, maxRows);
    this.#slots.set(slot, { view, kind, stored, slidesNext: false });
    this.importance.alias(slot, source);
    writeHeaders(this.buffers, slot, settings);
  }

  /** Takes a sequence out of its slot, so that it can go on in another one. */
  park(slot: number): ParkedSelection | null {
    const entry = this.#slots.get(slot);
    if (entry === undefined) return null;
    const keeps = entry.view.policy.store !== "none";
    const { importance } = this;
    const pages = keeps ? importance.detach(slot) : null;
    this.end(slot);
    return {
      entry,
      pages,
      [Symbol.dispose]() {
        if (this.pages !== null) importance.discard(this.pages);
        this.pages = null;
      },
    };
  }

  /** Goes on with a sequence in a slot that has just begun; its lists are to be written too. */
  resume(slot: number, parked: ParkedSelection, lists: ParkedLists): void {
    const { entry, pages } = parked;
    this.#slots.set(slot, entry);
    if (pages !== null) {
      this.importance.attach(slot, pages);
      parked.pages = null;
    }
    // What the lists stand for outlives the step: it is counted, and may be parked again.
    lists.forEach((heads, layer) => {
      if (heads === null) return;
      const counts = Uint32Array.from(heads, ({ length }) => length);
      this.buffers.writePicks(layer, slot, counts, heads);
    });
  }

  /** Writes lists that were parked, for a slot whose rows are all on the device. */
  writeLists(slot: number, lists: ParkedLists): void {
    const { pool } = this.#options.kv;
    const entry = this.#slots.get(slot)!;
    const sliding = entry.view.policy.once && !entry.slidesNext;
    lists.forEach((heads, layer) => {
      const view = entry.view.layer(layer);
      if (heads === null || view.kind !== "selected") return;
      const window = sliding
        ? [SLIDING, entry.view.settings.window] as const
        : [view.windowStart, 0] as const;
      const pageOf = (block: number) => pool.pageOf(layer, slot, block);
      writeParked(this.buffers, layer, slot, heads, view, window, pageOf);
    });
  }

  /** Forgets a slot. */
  end(slot: number): void {
    const entry = this.#slots.get(slot);
    if (entry === undefined) return;
    this.#slots.delete(slot);
    this.importance.end(slot);
    this.buffers.clearRecipes(slot);
    for (let layer = 0; layer < this.#options.config.numLayers; layer++) {
      this.buffers.writeSelection(layer, slot, new Uint32Array(4));
    }
  }

  /**
   * Rows first .. first + count - 1 of a slot are being written by a prefill chunk.
   *
   * @param total Rows that are prefilled in all.
   */
  preparePrefill(slot: number, first: number, count: number, total: number): boolean {
    const entry = this.#slots.get(slot);
    if (entry === undefined || entry.kind === null || entry.view.policy.store === "none") {
      return false;
    }
    this.#chunkEnd = first + count;
    if (keepsMass(entry.kind)) return this.#prepareObserved(slot, entry, first, count, total);
    const positions = storePositions(entry.kind, first, first + count);
    this.#resources.tables.writeStore(entry.kind, positions.map((position) => [slot, position]));
    entry.stored.rows = first + count;
    return true;
  }

  #prepareObserved(
    slot: number,
    { kind, view }: Slot,
    first: number,
    count: number,
    total: number,
  ): boolean {
    const from = total - observedRows(view.policy, view.settings.window, total)!;
    this.#resources.tables.storeCounts[SCORER_KINDS.indexOf(kind!)] = 0;
    if (first + count <= from) return false;
    const rows = Array.from({ length: count }, (_, i) => [slot, first + i] as const);
    this.#resources.tables.writeStore(kind!, rows, from);
    return true;
  }

  /**
   * Whether the queries of the prefill chunk count in a layer: then its attention leaves the
   * logarithms of sums in {@linkcode lse}, and {@linkcode encodeObserved} follows.
   */
  observes(slot: number, layer: number): boolean {
    const entry = this.#slots.get(slot);
    return entry?.kind != null && keepsMass(entry.kind) &&
      entry.view.settings.layers[layer]!.role === "selected";
  }

  /** Adds what the rows of the prefill chunk attend to in a layer. */
  encodeObserved(pass: GPUComputePassEncoder, slot: number, layer: number): void {
    const kind = this.#slots.get(slot)!.kind!;
    const index = SCORER_KINDS.indexOf(kind);
    const count = this.#resources.tables.storeCounts[index]!;
    const offset = this.#options.storeOffset(index);
    this.#resources.scorer(kind).encodeObserved!(pass, layer, count, this.#chunkEnd, offset);
  }

  /** Adds what the rows of a prefill chunk attend to among some keys, which are in place. */
  observeKeys(
    pass: GPUComputePassEncoder,
    slot: number,
    layer: number,
    keys: ObservedKeys,
  ): void {
    const kind = this.#slots.get(slot)!.kind!;
    const index = SCORER_KINDS.indexOf(kind);
    const count = this.#resources.tables.storeCounts[index]!;
    const offset = this.#options.storeOffset(index);
    this.#resources.scorer(kind).observeKeys!(pass, layer, count, keys, offset);
  }

  /** Whether what a slot's rows attend to is counted step by step. */
  accumulates(slot: number, layer: number): boolean {
    const entry = this.#slots.get(slot);
    return entry?.kind === "mass" && entry.view.settings.layers[layer]!.role === "selected";
  }

  /**
   * Adds what the rows of a decode step attend to in a layer, after its attention.
   *
   * @param splits As of attention; the step's uniform says so at `stepOffset`.
   */
  encodeAttended(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    splits: number,
    stepOffset: number,
  ): void {
    this.#resources.scorer("mass").encodeAttended!(pass, layer, numRows, splits, stepOffset);
  }

  /** Writes what is kept of the rows of a prefill chunk in a layer. */
  encodePrefill(
    pass: GPUComputePassEncoder,
    slot: number,
    layer: number,
    from: "cache" | "chunk",
  ): void {
    const entry = this.#slots.get(slot);
    if (entry?.kind == null) return;
    if (entry.view.settings.layers[layer]!.role !== "selected") return;
    this.#encodeStore(pass, entry.kind, layer, from);
  }

  /**
   * Goes on to a decode step.
   *
   * @returns What it does in each layer.
   */
  prepareDecode(rows: readonly SelectorRow[]): LayerWork[] {
    const { numLayers } = this.#options.config;
    const work = Array.from({ length: numLayers }, (): LayerWork => ({
      dense: false,
      rows: false,
      denseKeys: 0,
      rowsKeys: 0,
      mass: false,
      ends: SCORER_KINDS.map(() => 0),
    }));
    const pending = SCORER_KINDS.map((): [number, number][] => []);
    this.buffers.wantsNeighbours = false;
    const least = this.#leastPositions(rows);
    this.#early = rows.every(({ slot, position }) => {
      const entry = this.#slots.get(slot);
      if (entry?.kind !== "predicted") return true;
      return position + 1 - entry.view.settings.window <= least.get(entry.stored)!;
    });
    let anyFresh = false;
    // Of rows of one sequence the newest one writes what is kept, for all of them.
    for (const { slot, position } of rows.toSorted((a, b) => b.position - a.position)) {
      const n = position + 1;
      const entry = this.#slots.get(slot);
      if (entry === undefined) {
        for (const layer of work) countDense(layer, n);
        continue;
      }
      if (entry.slidesNext) {
        entry.slidesNext = false;
        writeSliding(this.buffers, slot, entry.view);
      }
      const fresh = entry.view.advance(n);
      const { store } = entry.view.policy;
      const keeps = entry.kind !== null && store !== "none" && store !== "mass";
      // Also without a selection, before there are more than the table has room for.
      const due = n - entry.stored.rows >= STORE_EVERY || (fresh && needsStored(entry, n));
      if (keeps && entry.kind !== null && due) {
        const end = this.#storedUpTo(entry, position, least);
        for (const at of storePositions(entry.kind, entry.stored.rows, end)) {
          pending[SCORER_KINDS.indexOf(entry.kind)]!.push([slot, at]);
        }
        const stored = entry.kind === "pages" ? position : entry.kind === "projected" ? n : end;
        entry.stored.rows = Math.max(entry.stored.rows, stored);
      }
      if (fresh && entry.view.policy.once) entry.slidesNext = true;
      anyFresh ||= fresh;
      for (let layer = 0; layer < numLayers; layer++) {
        this.#countLayer(work[layer]!, layer, slot, entry, n);
      }
    }
    SCORER_KINDS.forEach((kind, index) => {
      if (pending[index]!.length > 0) this.#resources.tables.writeStore(kind, pending[index]!);
      else this.#resources.tables.storeCounts[index] = 0;
    });
    if (anyFresh) this.buffers.sendRecipes();
    if (anyFresh || work.some(({ mass }) => mass)) {
      this.#resources.tables.writeOwn(rows, (kind) => this.#resources.has(kind));
    }
    return work;
  }

  /** Layers of which a slot's rows are chosen when a step has come to this one. */
  chosenAt(slot: number, layer: number): readonly number[] {
    const kind = this.#slots.get(slot)?.kind ?? null;
    return kind === null ? [] : this.#layersAt(kind, layer);
  }

  /**
   * Scores and selects when a step has come to a layer, for the rows whose selection is fresh: in that
   * layer, and in those whose queries are made from what enters it.
   *
   * @param work Of all layers.
   */
  encodeDecode(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    work: readonly LayerWork[],
    stepOffset: number,
  ): void {
    const predicted = SCORER_KINDS.indexOf("predicted");
    if (this.#resources.servedBy(layer).some((served) => work[served]!.ends[predicted]! > 0)) {
      this.#resources.scorer("predicted").encodeQueries!(pass, layer, numRows, stepOffset);
    }
    SCORER_KINDS.forEach((kind, index) => {
      for (const chosen of this.#layersAt(kind, layer)) {
        this.#encodeStore(pass, kind, chosen, "cache");
        const end = work[chosen]!.ends[index]!;
        if (end === 0) continue;
        this.#resources.scorer(kind).encodeSelect(pass, chosen, numRows, end, stepOffset);
      }
    });
  }

  /**
   * A producer's layers are chosen together: their queries are there, and no key that is missing counts;
   * else each when its keys are there.
   */
  #layersAt(kind: ScorerKind, layer: number): readonly number[] {
    return kind === "predicted" && this.#early ? this.#resources.servedBy(layer) : [layer];
  }

  /** By what is stored of a sequence: the first of its rows that belongs to this step. */
  #leastPositions(rows: readonly SelectorRow[]): ReadonlyMap<Slot["stored"], number> {
    const least = new Map<Slot["stored"], number>();
    for (const { slot, position } of rows) {
      const stored = this.#slots.get(slot)?.stored;
      if (stored !== undefined) {
        least.set(stored, Math.min(position, least.get(stored) ?? position));
      }
    }
    return least;
  }

  /** Where the rows end whose importance is written in this step, of a row that is the newest but one. */
  #storedUpTo(
    { kind, view, stored }: Slot,
    position: number,
    least: ReadonlyMap<Slot["stored"], number>,
  ): number {
    // Layers that choose before their keys are there leave those of this step to a later one.
    if (kind === "predicted" && this.#early) return least.get(stored)!;
    // With its query the newest row's own key is projected too, in layers that choose; bounds are made
    // for all alike.
    return kind === "projected" && view.choosesAll ? position : position + 1;
  }

  /**
   * Scores of a slot that need keys which are not on the device; null where they do not. The slot's
   * candidates are left out of {@linkcode encodeDecode}, the other ones of this.
   */
  stagedScorer(slot: number, layer: number): { scorer: Scorer; end: number } | null {
    const entry = this.#slots.get(slot);
    if (entry?.kind == null) return null;
    const choice = entry.view.choice(layer);
    const scorer = this.#resources.scorer(entry.kind);
    if (scorer.scoreStaged === undefined || choice === null) return null;
    return { scorer, end: choice.to * choice.unit };
  }

  /** Lets only one slot's recipe of a layer count, or (null) only those that are not staged. */
  limitRecipes(layer: number, kind: ScorerKind, only: number | null): void {
    const index = SCORER_KINDS.indexOf(kind);
    for (const [slot, entry] of this.#slots) {
      if (entry.kind !== kind) continue;
      const words = this.buffers.recipeWords(index, layer, slot);
      const mine = only === null ? this.#options.spansOf(slot, layer) === null : slot === only;
      const counts = mine && entry.view.choice(layer) !== null;
      words[0] = counts ? SCORER_WORDS[kind].mode : LIST_MODES.rest;
    }
    this.buffers.sendRecipes();
  }

  #countLayer(work: LayerWork, layer: number, slot: number, entry: Slot, n: number): void {
    const view = entry.view.layer(layer);
    work.mass ||= this.accumulates(slot, layer);
    if (entry.kind !== null) {
      const index = SCORER_KINDS.indexOf(entry.kind);
      const words = this.buffers.recipeWords(index, layer, slot);
      words[0] = 0;
      const recipe = entry.view.choice(layer);
      if (recipe !== null) {
        const { mode } = SCORER_WORDS[entry.kind];
        const grows = entry.view.growth[layer]! > 1;
        this.buffers.wantsNeighbours ||= grows;
        const later = entry.view.coming(layer) !== null;
        const flags = (grows ? WANTS_NEIGHBOURS : 0) | (later ? PICKS_ONLY : 0);
        words.set([mode, recipe.from, n - recipe.windowStart, flags, ...recipe.budgets]);
        work.ends[index] = Math.max(work.ends[index]!, recipe.to * recipe.unit);
      }
    }
    if (view.kind === "all") {
      const spans = this.#options.spansOf(slot, layer);
      if (spans === null && entry.view.isReopened(layer)) {
        this.buffers.writeSelection(layer, slot, new Uint32Array(4));
      }
      if (spans === null || spans.prefix >= spans.windowStart) return countDense(work, n);
      work.rows = true;
      work.rowsKeys = Math.max(work.rowsKeys, spans.prefix + n - spans.windowStart);
      return;
    }
    const widens = view.kind === "window" && "share" in entry.view.settings.budget;
    if (widens && this.#options.spansOf(slot, layer) === null) {
      // The window grows with the sequence. Below the device its header says what the slabs have.
      const words = Uint32Array.of(1, view.prefix, SLIDING, view.windowRows);
      this.buffers.writeSelection(layer, slot, words);
    }
    work.rows = true;
    const keys = view.kind === "window"
      ? view.prefix + view.windowRows
      : view.recipe.prefix + view.listRows + n - view.windowStart;
    work.rowsKeys = Math.max(work.rowsKeys, Math.min(n, keys));
  }

  #encodeStore(
    pass: GPUComputePassEncoder,
    kind: ScorerKind,
    layer: number,
    from: "cache" | "chunk",
  ): void {
    const index = SCORER_KINDS.indexOf(kind);
    const count = this.#resources.tables.storeCounts[index]!;
    if (count === 0) return;
    const offset = this.#options.storeOffset(index);
    this.#resources.scorer(kind).encodeStore(pass, layer, count, offset, from);
  }

  /** Rows that the tables of stored rows hold now, by kind: for the step's uniform. */
  get storeCounts(): readonly number[] {
    return this.#resources.tables.storeCounts;
  }

  [Symbol.dispose](): void {
    this.#resources[Symbol.dispose]();
  }
}

/** Whether a selection among `n` rows may choose rows of which nothing is kept yet. */
function needsStored({ kind, view, stored }: Slot, n: number): boolean {
  // Rows of the window are no candidates: they are projected many at a time, when they leave it.
  return kind !== "predicted" || n - view.settings.window > stored.rows;
}

function countDense(work: LayerWork, keys: number): void {
  work.dense = true;
  work.denseKeys = Math.max(work.denseKeys, keys);
}
