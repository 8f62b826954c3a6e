/**
 * Selection on the device: keeps what is needed to score the rows of the running sequences, and in
 * each layer chooses rows as their policies say. No score leaves the device.
 *
 * @module
 */
import { SLIDING } from "../gpu/ops/selection.ts";
import type { ResidentSpans } from "../kv/offloaded.ts";
import { DecodeSelection, STORE_EVERY } from "./decode_selection.ts";
import type { ImportanceStore } from "./importance_store.ts";
import type { ParkedLists } from "./parked_lists.ts";
import { PrefillSelection } from "./prefill_selection.ts";
import type { KeyTransit } from "./scorers/types.ts";
import type { SelectionBuffers } from "./selection_buffers.ts";
import { writeHeaders, writeParked } from "./selection_headers.ts";
import { type SelectionResourceOptions, SelectionResources } from "./selection_resources.ts";
import type { KvSettings } from "./settings_types.ts";
import type { ParkedSelection, SlotSelection } from "./slot_selection.ts";
import { mostListRows, SlotView } from "./slots.ts";

/** What a selector is built from. */
export interface SelectorOptions extends Omit<SelectionResourceOptions, "maxStored"> {
  /** Rows of a prefill chunk, at most. */
  readonly maxPrefill: number;
  /** Rows of a slot's layer that are on the device; null where all of them are. */
  readonly spansOf: (slot: number, layer: number) => ResidentSpans | null;
}

/** Selection for the sequences in the slots of a cache. */
export class Selector {
  /** What is kept of the rows of a prompt. */
  readonly prefill: PrefillSelection;
  /** What is chosen in a decode step. */
  readonly decode: DecodeSelection;
  readonly #options: SelectorOptions;
  readonly #slots = new Map<number, SlotSelection>();
  readonly #resources: SelectionResources;

  constructor(options: SelectorOptions) {
    const { maxSequences, maxPrefill, spansOf } = options;
    this.#options = options;
    const maxStored = Math.max(maxPrefill, maxSequences * (STORE_EVERY + 1));
    this.#resources = new SelectionResources({ ...options, maxStored }, {
      kindOf: (slot) => this.#slots.get(slot)?.kind ?? null,
      isBelow: (slot) => spansOf(slot, 0) !== null,
    });
    this.prefill = new PrefillSelection(this.#slots, this.#resources);
    const { numLayers } = options.config;
    this.decode = new DecodeSelection(this.#slots, this.#resources, { numLayers, spansOf });
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

  [Symbol.dispose](): void {
    this.#resources[Symbol.dispose]();
  }
}
