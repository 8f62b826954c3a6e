/**
 * Which page of device memory holds which rows of which sequence. Plain bookkeeping: no GPU object
 * here, and every invariant is asserted.
 *
 * A page is {@linkcode BLOCK_ROWS} rows of one layer. Layers share slabs (buffers), so that a layer
 * that keeps everything can take room that another one does not need. A page either holds a block of
 * a sequence (it then stands in the tables that the kernels read) or single rows that were fetched
 * (their place is known to whoever took the page).
 *
 * @module
 */
import type { KvUsage } from "./types.ts";

/** Rows of a page, and of a block of a sequence. */
export const BLOCK_ROWS = 32;

/** Table entry of a block that is not on the device. */
export const NO_PAGE = 0xffffffff;

/** Sizes of a {@linkcode SlabPool}. */
export interface SlabPoolOptions {
  /** Slab of each layer. */
  readonly layerSlab: readonly number[];
  /** Pages of each slab. */
  readonly slabPages: readonly number[];
  readonly numSlots: number;
  /** Blocks that a slot may have; the width of the device's tables. */
  readonly maxBlocks: number;
}

/** A run of table entries that changed. */
export interface TableChange {
  readonly layer: number;
  readonly slot: number;
  /** Block of the first entry. */
  readonly first: number;
  /** The entries from `first` on. A view: copy or upload before the next change. */
  readonly pages: Uint32Array<ArrayBuffer>;
}

/** Pages of slabs, handed out by layer. */
export class SlabPool {
  readonly numLayers: number;
  readonly numSlots: number;
  readonly maxBlocks: number;
  readonly #layerSlab: readonly number[];
  /** Pages of each slab, free or not. */
  readonly #slabPages: readonly number[];
  /** Free pages of each slab, the next one last. */
  readonly #free: number[][];
  /** By layer: (slots, maxBlocks). */
  readonly #tables: readonly Uint32Array<ArrayBuffer>[];
  /** By layer and slot: blocks that are mapped, and the changed run [first, end). */
  readonly #counts: Uint32Array;
  readonly #changedFirst: Uint32Array;
  readonly #changedEnd: Uint32Array;
  /** Pages that hold fetched rows, by slab. */
  readonly #taken: readonly Set<number>[];
  #anyChange = false;

  /** @throws {RangeError} If a size makes no sense. */
  constructor(options: SlabPoolOptions) {
    const { layerSlab, slabPages, numSlots, maxBlocks } = options;
    for (const [name, value] of Object.entries({ numSlots, maxBlocks })) {
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new RangeError(`slab pool: ${name} must be a positive integer, not ${value}`);
      }
    }
    if (layerSlab.some((slab) => slabPages[slab] === undefined)) {
      throw new RangeError("slab pool: a layer has no slab");
    }
    this.numLayers = layerSlab.length;
    this.numSlots = numSlots;
    this.maxBlocks = maxBlocks;
    this.#layerSlab = layerSlab;
    this.#slabPages = slabPages;
    // Lowest first: the last entry is the next one.
    this.#free = slabPages.map((count) => Array.from({ length: count }, (_, i) => count - 1 - i));
    this.#tables = layerSlab.map(() => new Uint32Array(numSlots * maxBlocks).fill(NO_PAGE));
    this.#counts = new Uint32Array(layerSlab.length * numSlots);
    this.#changedFirst = new Uint32Array(layerSlab.length * numSlots).fill(NO_PAGE);
    this.#changedEnd = new Uint32Array(layerSlab.length * numSlots);
    this.#taken = slabPages.map(() => new Set());
  }

  /** Pages of all layers together. */
  get usage(): KvUsage {
    const numPages = this.#slabPages.reduce((sum, pages) => sum + pages, 0);
    const free = this.#free.reduce((sum, pages) => sum + pages.length, 0);
    return { pageSize: BLOCK_ROWS, numPages, pagesInUse: numPages - free };
  }

  /** Free pages of each slab. */
  get freePages(): number[] {
    return this.#free.map((pages) => pages.length);
  }

  /** Free pages that a layer could have, alone. */
  freeFor(layer: number): number {
    return this.#free[this.#layerSlab[layer]!]!.length;
  }

  /** Slab of each layer. */
  get layerSlab(): readonly number[] {
    return this.#layerSlab;
  }

  /** Pages of each slab. */
  get slabPages(): readonly number[] {
    return this.#slabPages;
  }

  /** Whether so many pages could be had by each layer at once. */
  hasRoom(pagesByLayer: readonly number[]): boolean {
    const wanted = this.#slabPages.map(() => 0);
    pagesByLayer.forEach((count, layer) => wanted[this.#layerSlab[layer]!]! += count);
    return wanted.every((count, slab) => count <= this.#free[slab]!.length);
  }

  /** The same if nothing else were on the device. */
  couldHave(pagesByLayer: readonly number[]): boolean {
    const wanted = this.#slabPages.map(() => 0);
    pagesByLayer.forEach((count, layer) => wanted[this.#layerSlab[layer]!]! += count);
    return wanted.every((count, slab) => count <= this.#slabPages[slab]!);
  }

  /** Page of a block, or {@linkcode NO_PAGE}. */
  pageOf(layer: number, slot: number, block: number): number {
    this.#check(layer, slot, block);
    return this.#tables[layer]![slot * this.maxBlocks + block]!;
  }

  /** Pages that hold blocks of a slot in a layer. */
  mappedCount(layer: number, slot: number): number {
    return this.#counts[layer * this.numSlots + slot]!;
  }

  /** Pages of a slot's blocks in all layers. */
  slotPages(slot: number): number {
    let sum = 0;
    for (let layer = 0; layer < this.numLayers; layer++) sum += this.mappedCount(layer, slot);
    return sum;
  }

  /**
   * Gives a block a page.
   *
   * @throws {RangeError} If the layer's slab has no free page, or the block has one already.
   */
  map(layer: number, slot: number, block: number): number {
    assertPool(this.pageOf(layer, slot, block) === NO_PAGE, "a block is mapped twice");
    const page = this.#next(layer);
    this.#enter(layer, slot, block, page);
    return page;
  }

  /** Frees the page of a block; one without a page is left alone. */
  unmap(layer: number, slot: number, block: number): void {
    const page = this.pageOf(layer, slot, block);
    if (page === NO_PAGE) return;
    this.#tables[layer]![slot * this.maxBlocks + block] = NO_PAGE;
    this.#counts[layer * this.numSlots + slot]!--;
    this.#free[this.#layerSlab[layer]!]!.push(page);
  }

  /** Frees the pages of all blocks of a slot. */
  unmapSlot(slot: number): void {
    for (let layer = 0; layer < this.numLayers; layer++) {
      const at = layer * this.numSlots + slot;
      const table = this.#tables[layer]!;
      for (let i = 0; this.#counts[at]! > 0 && i < this.maxBlocks; i++) {
        if (table[slot * this.maxBlocks + i] !== NO_PAGE) this.unmap(layer, slot, i);
      }
      this.#changedFirst[at] = NO_PAGE;
      this.#changedEnd[at] = 0;
    }
  }

  /**
   * A page for fetched rows, outside the tables.
   *
   * @throws {RangeError} If the layer's slab has none left.
   */
  take(layer: number): number {
    const page = this.#next(layer);
    this.#taken[this.#layerSlab[layer]!]!.add(page);
    return page;
  }

  /** Gives a page back that {@linkcode take} gave. */
  give(layer: number, page: number): void {
    const slab = this.#layerSlab[layer]!;
    assertPool(this.#taken[slab]!.delete(page), `page ${page} was not taken`);
    this.#free[slab]!.push(page);
  }

  /** Puts a block into a page that {@linkcode take} gave. */
  place(layer: number, slot: number, block: number, page: number): void {
    assertPool(this.#taken[this.#layerSlab[layer]!]!.delete(page), `page ${page} was not taken`);
    this.#enter(layer, slot, block, page);
  }

  /** Takes a block out of its page, which is then as {@linkcode take} gave it. */
  displace(layer: number, slot: number, block: number): number {
    const page = this.pageOf(layer, slot, block);
    assertPool(page !== NO_PAGE, "a block without a page is displaced");
    this.#tables[layer]![slot * this.maxBlocks + block] = NO_PAGE;
    this.#counts[layer * this.numSlots + slot]!--;
    this.#taken[this.#layerSlab[layer]!]!.add(page);
    return page;
  }

  /**
   * Table entries that were set since the last call. A run may hold entries that did not change, or
   * that have no page any more: nothing reads those.
   */
  drainChanges(): TableChange[] {
    if (!this.#anyChange) return [];
    this.#anyChange = false;
    const changes: TableChange[] = [];
    for (let layer = 0; layer < this.numLayers; layer++) {
      for (let slot = 0; slot < this.numSlots; slot++) {
        const at = layer * this.numSlots + slot;
        const first = this.#changedFirst[at]!;
        if (first === NO_PAGE) continue;
        const row = slot * this.maxBlocks;
        const end = row + this.#changedEnd[at]!;
        changes.push({
          layer,
          slot,
          first,
          pages: this.#tables[layer]!.subarray(row + first, end),
        });
        this.#changedFirst[at] = NO_PAGE;
        this.#changedEnd[at] = 0;
      }
    }
    return changes;
  }

  /**
   * Checks the whole bookkeeping; for tests, since it walks every page.
   *
   * @throws {Error} If a page is held twice, lost, or counted wrongly.
   */
  checkInvariants(): void {
    const seen = this.#slabPages.map((pages) => new Uint8Array(pages));
    const claim = (slab: number, page: number, by: string) => {
      assertPool(page < this.#slabPages[slab]!, `${by} has page ${page}, which does not exist`);
      assertPool(seen[slab]![page] === 0, `page ${page} of slab ${slab} is held twice (${by})`);
      seen[slab]![page] = 1;
    };
    this.#free.forEach((pages, slab) =>
      pages.forEach((page) => claim(slab, page, "the free list"))
    );
    this.#taken.forEach((pages, slab) => pages.forEach((page) => claim(slab, page, "a fetch")));
    for (let layer = 0; layer < this.numLayers; layer++) {
      for (let slot = 0; slot < this.numSlots; slot++) {
        let count = 0;
        for (let block = 0; block < this.maxBlocks; block++) {
          const page = this.pageOf(layer, slot, block);
          if (page === NO_PAGE) continue;
          claim(this.#layerSlab[layer]!, page, `slot ${slot}`);
          count++;
        }
        assertPool(count === this.mappedCount(layer, slot), `slot ${slot} is counted wrongly`);
      }
    }
    seen.forEach((pages, slab) => {
      assertPool(pages.every((held) => held === 1), `a page of slab ${slab} was lost`);
    });
  }

  #enter(layer: number, slot: number, block: number, page: number): void {
    assertPool(this.pageOf(layer, slot, block) === NO_PAGE, "a block is mapped twice");
    this.#tables[layer]![slot * this.maxBlocks + block] = page;
    const at = layer * this.numSlots + slot;
    this.#counts[at]!++;
    this.#changedFirst[at] = Math.min(this.#changedFirst[at]!, block);
    this.#changedEnd[at] = Math.max(this.#changedEnd[at]!, block + 1);
    this.#anyChange = true;
  }

  #next(layer: number): number {
    const page = this.#free[this.#layerSlab[layer]!]?.pop();
    if (page === undefined) throw new RangeError(`no page is free for layer ${layer}`);
    return page;
  }

  #check(layer: number, slot: number, block: number): void {
    const fits = (value: number, end: number) =>
      Number.isInteger(value) && value >= 0 && value < end;
    if (
      !fits(layer, this.numLayers) || !fits(slot, this.numSlots) || !fits(block, this.maxBlocks)
    ) {
      throw new RangeError(`there is no block ${block} of slot ${slot} in layer ${layer}`);
    }
  }
}

function assertPool(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`slab pool: ${message}`);
}
