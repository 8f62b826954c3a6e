/**
 * What is under way where rows are fetched ahead. What a step chose is read back with its token,
 * fetched while the next step computes, and used from the one after that on. So between two steps a
 * sequence has lists in use and, of the newest step, lists that were chosen but not fetched yet.
 * Bookkeeping and one read; whoever owns the slots of the device places the rows.
 *
 * @module
 */
import {
  copyLists,
  type HeadLists,
  listBytes,
  type ParkedLists,
  parseLists,
} from "../../butler/parked_lists.ts";
import type { Selector } from "../../butler/selector.ts";
import type { SelectedView } from "../../butler/slots.ts";
import { GrowingReadback } from "../../gpu/growing_readback.ts";
import type { CopySink } from "../../kv/block_reader.ts";

/** What was chosen for a layer. */
export interface Chosen {
  readonly view: SelectedView;
  readonly lists: HeadLists;
}

/** What is known of a sequence between two steps, by layer. */
export interface AheadLists {
  /** In use. */
  readonly used: ParkedLists;
  /** Of the newest step; to be fetched in the next. */
  readonly chosen: readonly (Chosen | null)[];
}

/** A row of a step, as far as it matters here. */
interface Row {
  readonly slot: number;
}

interface Slot {
  readonly used: (HeadLists | null)[];
  readonly chosen: (Chosen | null)[];
  /** On its way in this step; used from the next one on. */
  readonly placed: (Chosen | null)[];
}

/** Selections on their way, by slot. */
export class FetchAhead {
  readonly #numLayers: number;
  readonly #slots = new Map<number, Slot>();
  readonly #readback: GrowingReadback;
  /** What the read of this step is of, in its order. */
  #reads: { readonly slot: number; readonly layer: number; readonly view: SelectedView }[] = [];

  constructor(device: GPUDevice, numLayers: number, mode?: "sync" | "awaited") {
    this.#numLayers = numLayers;
    this.#readback = new GrowingReadback(device, mode);
  }

  /** Lists that a layer of a slot uses in this step; null where none were noted. */
  used(slot: number, layer: number): HeadLists | null {
    return this.#slots.get(slot)?.used[layer] ?? null;
  }

  /** Notes lists that were fetched in the step that chose them. */
  begin(slot: number, layer: number, lists: HeadLists): void {
    this.#slot(slot).used[layer] = lists;
  }

  /** Copies what the step chooses for later, of all layers; before its last submission. */
  async encodeRead(sink: CopySink, rows: readonly Row[], selector: Selector): Promise<void> {
    this.#reads = [];
    for (const { slot } of rows) {
      for (let layer = 0; layer < this.#numLayers; layer++) {
        const view = selector.view(slot)?.coming(layer) ?? null;
        if (view !== null) this.#reads.push({ slot, layer, view });
      }
    }
    if (this.#reads.length === 0) return;
    const { buffers } = selector;
    const size = listBytes(buffers);
    const { target } = await this.#readback.room(this.#reads.length * size);
    this.#reads.forEach(({ slot, layer }, index) =>
      copyLists(sink, buffers, layer, slot, target, index * size)
    );
  }

  /**
   * Goes through what the step before chose, layer by layer, while this step computes.
   *
   * @param place Sends the rows of a layer on their way, and says so in its lists.
   */
  place<R extends Row>(
    rows: readonly R[],
    place: (layer: number, row: R, chosen: Chosen) => void,
  ): void {
    for (let layer = 0; layer < this.#numLayers; layer++) {
      for (const row of rows) {
        const state = this.#slots.get(row.slot);
        const chosen = state?.chosen[layer];
        if (state === undefined || chosen == null) continue;
        state.chosen[layer] = null;
        place(layer, row, chosen);
        state.placed[layer] = chosen;
      }
    }
  }

  /** After a step: what was placed in it is used from now on, what it chose is read. */
  async settle(rows: readonly Row[], selector: Selector): Promise<void> {
    for (const { slot } of rows) {
      this.#slots.get(slot)?.placed.forEach((chosen, layer, placed) => {
        if (chosen === null) return;
        placed[layer] = null;
        selector.view(slot)?.use(layer, chosen.view);
        this.begin(slot, layer, chosen.lists);
      });
    }
    const reads = this.#reads;
    if (reads.length === 0) return;
    this.#reads = [];
    const size = reads.length * listBytes(selector.buffers);
    const bytes = await (await this.#readback.room(size)).read(size);
    reads.forEach(({ slot, layer, view }, index) => {
      const lists = parseLists(selector.buffers, bytes, index);
      this.#slot(slot).chosen[layer] = { view, lists };
    });
  }

  /** Takes what is under way out of a slot; null where nothing is. */
  park(slot: number): AheadLists | null {
    const state = this.#slots.get(slot);
    if (state === undefined) return null;
    this.end(slot);
    return state;
  }

  /** Goes on with it in another slot. */
  resume(slot: number, { used, chosen }: AheadLists): void {
    const state = this.#slot(slot);
    used.forEach((lists, layer) => state.used[layer] = lists);
    chosen.forEach((one, layer) => state.chosen[layer] = one);
  }

  /** Drops what is under way. */
  end(slot: number): void {
    this.#slots.delete(slot);
    this.#reads = this.#reads.filter((read) => read.slot !== slot);
  }

  #slot(slot: number): Slot {
    let state = this.#slots.get(slot);
    if (state === undefined) {
      const none = () => new Array<null>(this.#numLayers).fill(null);
      this.#slots.set(slot, state = { used: none(), chosen: none(), placed: none() });
    }
    return state;
  }

  [Symbol.dispose](): void {
    this.#readback[Symbol.dispose]();
  }
}
