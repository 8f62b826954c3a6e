/**
 * A sequence of which only a working set lies on the device: which of its blocks have pages, which
 * fetched rows have slots, and where everything else is. Plain bookkeeping over the pool and the
 * store; whoever moves the bytes asks here where they go.
 *
 * @module
 */
import { PlacementRoom, SlotTable } from "./fetch/slot_table.ts";
import { BLOCK_ROWS, NO_PAGE, type SlabPool } from "./slab_pool.ts";
import type { StoredSequence } from "./store/types.ts";
import { type LayerSet, pagesOf } from "./working_set.ts";

/** Rows of a layer that the device has, as two runs. */
export interface ResidentSpans {
  /** Rows 0 .. prefix - 1. */
  readonly prefix: number;
  /** Rows windowStart .. n - 1; not below the prefix. */
  readonly windowStart: number;
}

/** Device rows of pages, one page after the other. */
function rowsOfPages(pages: readonly number[]): Uint32Array {
  const rows = new Uint32Array(pages.length * BLOCK_ROWS);
  for (let i = 0; i < rows.length; i++) {
    rows[i] = pages[Math.floor(i / BLOCK_ROWS)]! * BLOCK_ROWS + i % BLOCK_ROWS;
  }
  return rows;
}

/** Pages, slots and stored blocks of one sequence. */
export class OffloadedRows {
  #stored: StoredSequence;
  readonly sets: readonly LayerSet[];
  readonly #pool: SlabPool;
  readonly #slot: number;
  /** By layer: pages that hold no block now. */
  readonly #spare: number[][];
  /** By layer: pages whose rows are slots. */
  readonly #slotPages: readonly (readonly number[])[];
  /** By layer and slot: device rows. Looked up for each chosen row. */
  readonly #slotRows: readonly Uint32Array[];
  /** By layer and KV head. */
  readonly #tables: readonly (readonly SlotTable[])[];
  #numRows = 0;

  /** @throws {RangeError} If the pool has no room for the working set. */
  constructor(
    pool: SlabPool,
    slot: number,
    sets: readonly LayerSet[],
    numKvHeads: number,
    stored: StoredSequence,
  ) {
    if (!pool.hasRoom(sets.map(pagesOf))) throw new RangeError("no room for the working set");
    this.#pool = pool;
    this.#slot = slot;
    this.sets = sets;
    this.#stored = stored;
    const take = (layer: number, count: number) =>
      Array.from({ length: count }, () => pool.take(layer));
    this.#spare = sets.map((set, layer) => take(layer, set.prefixBlocks + set.windowBlocks));
    this.#slotPages = sets.map((set, layer) => take(layer, set.slotPages));
    this.#slotRows = this.#slotPages.map(rowsOfPages);
    const room = new PlacementRoom();
    this.#tables = sets.map(({ slotPages }) =>
      Array.from({ length: numKvHeads }, () => new SlotTable(slotPages * BLOCK_ROWS, room))
    );
  }

  /** The blocks below the device. */
  get stored(): StoredSequence {
    return this.#stored;
  }

  /** Takes the blocks of a parked sequence in the place of its own, of which there are none yet. */
  adopt(stored: StoredSequence): void {
    this.#stored[Symbol.dispose]();
    this.#stored = stored;
  }

  /** Rows that exist, the newest included. */
  get numRows(): number {
    return this.#numRows;
  }

  /** Pages on the device. */
  get numPages(): number {
    return this.sets.reduce((sum, set) => sum + pagesOf(set), 0);
  }

  /** Slots of a KV head of a layer. */
  slots(layer: number, kvHead: number): SlotTable {
    return this.#tables[layer]![kvHead]!;
  }

  /** Device rows of the slots of a layer. */
  slotRows(layer: number): Uint32Array {
    return this.#slotRows[layer]!;
  }

  /** Device row of a slot of a layer. */
  rowOfSlot(layer: number, slot: number): number {
    return this.#slotRows[layer]![slot]!;
  }

  /** Page of a block in a layer, or {@linkcode NO_PAGE}. */
  pageOf(layer: number, block: number): number {
    return this.#pool.pageOf(layer, this.#slot, block);
  }

  /** Rows of a layer that have pages. */
  spans(layer: number): ResidentSpans {
    const { prefixBlocks, windowBlocks } = this.sets[layer]!;
    const blocks = Math.ceil(this.#numRows / BLOCK_ROWS);
    const prefix = Math.min(prefixBlocks, blocks);
    const window = Math.max(prefix, blocks - windowBlocks);
    return {
      prefix: Math.min(prefix * BLOCK_ROWS, this.#numRows),
      windowStart: Math.min(window * BLOCK_ROWS, this.#numRows),
    };
  }

  /**
   * Makes room for rows up to `numRows`: the oldest blocks of the window give way. What they held is
   * in the store already if they are whole.
   */
  extend(numRows: number): void {
    const blocks = Math.ceil(numRows / BLOCK_ROWS);
    const before = Math.ceil(this.#numRows / BLOCK_ROWS);
    this.#numRows = numRows;
    if (blocks === before) return;
    this.sets.forEach(({ prefixBlocks, windowBlocks }, layer) => {
      const keep = (block: number) => block < prefixBlocks || block >= blocks - windowBlocks;
      const spare = this.#spare[layer]!;
      for (let block = Math.max(prefixBlocks, before - windowBlocks); block < before; block++) {
        if (!keep(block) && this.pageOf(layer, block) !== NO_PAGE) {
          spare.push(this.#pool.displace(layer, this.#slot, block));
        }
      }
      for (let block = before; block < blocks; block++) {
        if (keep(block)) this.#pool.place(layer, this.#slot, block, spare.pop()!);
      }
    });
  }

  /** No slot holds a row any more. */
  forgetSlots(): void {
    for (const tables of this.#tables) for (const table of tables) table.clear();
  }

  /** Forgets all rows; pages and slots stay. */
  clear(): void {
    const blocks = Math.ceil(this.#numRows / BLOCK_ROWS);
    this.#numRows = 0;
    this.#spare.forEach((spare, layer) => {
      for (let block = 0; block < blocks; block++) {
        if (this.pageOf(layer, block) === NO_PAGE) continue;
        spare.push(this.#pool.displace(layer, this.#slot, block));
      }
    });
  }

  /** Gives all pages back and forgets what is stored. */
  [Symbol.dispose](): void {
    this.releasePages();
    this.#stored[Symbol.dispose]();
  }

  /** Gives all pages back; what is stored stays. */
  releasePages(): void {
    this.#pool.unmapSlot(this.#slot);
    this.#spare.forEach((pages, layer) => pages.forEach((page) => this.#pool.give(layer, page)));
    this.#slotPages.forEach((pages, layer) =>
      pages.forEach((page) => this.#pool.give(layer, page))
    );
  }
}

/** Who knows the working sets of slots. */
export interface OffloadedSlots {
  /** Null where a slot lies on the device as a whole. */
  offloaded(slot: number): OffloadedRows | null;
}

/** The working set of a slot that lies below the device. */
export function requireOffloaded(slots: OffloadedSlots, slot: number): OffloadedRows {
  const rows = slots.offloaded(slot);
  if (rows === null) throw new Error(`slot ${slot} lies on the device as a whole`);
  return rows;
}
