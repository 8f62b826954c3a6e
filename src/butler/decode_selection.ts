/** Selection in a decode step: whose rows are chosen in which layer, and the kernels for it. @module */
import { LIST_MODES, PICKS_ONLY } from "../gpu/ops/list_params.ts";
import { WANTS_NEIGHBOURS } from "../gpu/ops/neighbours.ts";
import { SLIDING } from "../gpu/ops/selection.ts";
import type { ResidentSpans } from "../kv/offloaded.ts";
import { type SelectorRow, storePositions } from "./row_tables.ts";
import { SCORER_KINDS, SCORER_WORDS, type ScorerKind } from "./scorers/kinds.ts";
import type { Scorer } from "./scorers/types.ts";
import { writeSliding } from "./selection_headers.ts";
import type { SelectionResources } from "./selection_resources.ts";
import type { SlotSelection, SlotSelections } from "./slot_selection.ts";

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

/** Decode steps after which what is kept of their rows is written, whether it is needed yet or not. */
export const STORE_EVERY = 32;

/** What {@linkcode DecodeSelection} is told. */
export interface DecodeSelectionOptions {
  readonly numLayers: number;
  /** Rows of a slot's layer that are on the device; null where all of them are. */
  readonly spansOf: (slot: number, layer: number) => ResidentSpans | null;
}

/** Selection during decode. */
export class DecodeSelection {
  readonly #slots: SlotSelections;
  readonly #resources: SelectionResources;
  readonly #options: DecodeSelectionOptions;
  /** In this step no row has candidates among the rows of the step itself. */
  #early = true;

  constructor(
    slots: SlotSelections,
    resources: SelectionResources,
    options: DecodeSelectionOptions,
  ) {
    this.#slots = slots;
    this.#resources = resources;
    this.#options = options;
  }

  /**
   * Goes on to a decode step.
   *
   * @returns What it does in each layer.
   */
  prepare(rows: readonly SelectorRow[]): LayerWork[] {
    const { numLayers } = this.#options;
    const work = Array.from({ length: numLayers }, (): LayerWork => ({
      dense: false,
      rows: false,
      denseKeys: 0,
      rowsKeys: 0,
      mass: false,
      ends: SCORER_KINDS.map(() => 0),
    }));
    const pending = SCORER_KINDS.map((): [number, number][] => []);
    this.#resources.buffers.wantsNeighbours = false;
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
        writeSliding(this.#resources.buffers, slot, entry.view);
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
    if (anyFresh) this.#resources.buffers.sendRecipes();
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
  encode(
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
        this.#resources.encodeStore(pass, kind, chosen, "cache");
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
  #leastPositions(rows: readonly SelectorRow[]): ReadonlyMap<SlotSelection["stored"], number> {
    const least = new Map<SlotSelection["stored"], number>();
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
    { kind, view, stored }: SlotSelection,
    position: number,
    least: ReadonlyMap<SlotSelection["stored"], number>,
  ): number {
    // Layers that choose before their keys are there leave those of this step to a later one.
    if (kind === "predicted" && this.#early) return least.get(stored)!;
    // With its query the newest row's own key is projected too, in layers that choose; bounds are made
    // for all alike.
    return kind === "projected" && view.choosesAll ? position : position + 1;
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

  /**
   * Scores of a slot that need keys which are not on the device; null where they do not. The slot's
   * candidates are left out of {@linkcode encode}, the other ones of this.
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
      const words = this.#resources.buffers.recipeWords(index, layer, slot);
      const mine = only === null ? this.#options.spansOf(slot, layer) === null : slot === only;
      const counts = mine && entry.view.choice(layer) !== null;
      words[0] = counts ? SCORER_WORDS[kind].mode : LIST_MODES.rest;
    }
    this.#resources.buffers.sendRecipes();
  }

  #countLayer(work: LayerWork, layer: number, slot: number, entry: SlotSelection, n: number): void {
    const view = entry.view.layer(layer);
    work.mass ||= this.accumulates(slot, layer);
    if (entry.kind !== null) {
      const index = SCORER_KINDS.indexOf(entry.kind);
      const words = this.#resources.buffers.recipeWords(index, layer, slot);
      words[0] = 0;
      const recipe = entry.view.choice(layer);
      if (recipe !== null) {
        const { mode } = SCORER_WORDS[entry.kind];
        const grows = entry.view.growth[layer]! > 1;
        this.#resources.buffers.wantsNeighbours ||= grows;
        const later = entry.view.coming(layer) !== null;
        const flags = (grows ? WANTS_NEIGHBOURS : 0) | (later ? PICKS_ONLY : 0);
        words.set([mode, recipe.from, n - recipe.windowStart, flags, ...recipe.budgets]);
        work.ends[index] = Math.max(work.ends[index]!, recipe.to * recipe.unit);
      }
    }
    if (view.kind === "all") {
      const spans = this.#options.spansOf(slot, layer);
      if (spans === null && entry.view.isReopened(layer)) {
        this.#resources.buffers.writeSelection(layer, slot, new Uint32Array(4));
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
      this.#resources.buffers.writeSelection(layer, slot, words);
    }
    work.rows = true;
    const keys = view.kind === "window"
      ? view.prefix + view.windowRows
      : view.recipe.prefix + view.listRows + n - view.windowStart;
    work.rowsKeys = Math.max(work.rowsKeys, Math.min(n, keys));
  }
}

/** Whether a selection among `n` rows may choose rows of which nothing is kept yet. */
function needsStored({ kind, view, stored }: SlotSelection, n: number): boolean {
  // Rows of the window are no candidates: they are projected many at a time, when they leave it.
  return kind !== "predicted" || n - view.settings.window > stored.rows;
}

function countDense(work: LayerWork, keys: number): void {
  work.dense = true;
  work.denseKeys = Math.max(work.denseKeys, keys);
}
