/**
 * Which page of the cache belongs to which sequence. Plain bookkeeping: no GPU object here, and
 * every invariant is asserted, so a device tier only has to upload what {@linkcode
 * PagePool.drainChanges} reports.
 *
 * @module
 */
import type { KvCache, KvUsage, SequenceNeed } from "./types.ts";

/** Size of a {@linkcode PagePool}. */
export interface PagePoolOptions {
  readonly numPages: number;
  /** Rows of a page. */
  readonly pageSize: number;
  readonly numSlots: number;
  /** Longest page table a slot may have; the width of the device's table. */
  readonly maxPagesPerSlot: number;
}

/** A run of page table entries that changed. */
export interface PageTableChange {
  readonly slot: number;
  /** Index of the first changed entry in the slot's table. */
  readonly first: number;
  /** The entries from `first` on, as they are now. A view: copy or upload before the next change. */
  readonly pages: Uint32Array<ArrayBuffer>;
}

const FREE = -1;
const DETACHED = -2;

/**
 * Pages of a cache, handed to slots lowest first.
 *
 * A slot's table only grows until it is released, so what changed since the last drain is always
 * its tail.
 */
export class PagePool implements KvCache {
  readonly #numPages: number;
  readonly #pageSize: number;
  readonly #numSlots: number;
  readonly #maxPagesPerSlot: number;
  /** Slot that holds each page, or FREE. */
  readonly #owner: Int32Array;
  /** (numSlots, maxPagesPerSlot), row-major. */
  readonly #tables: Uint32Array<ArrayBuffer>;
  readonly #counts: Uint32Array;
  /** Table entries of each slot that were drained already. */
  readonly #drained: Uint32Array;
  #numFree: number;
  /** No page below this one is free. */
  #lowestFree = 0;

  /** @throws {RangeError} If a size is not a positive integer. */
  constructor(options: PagePoolOptions) {
    for (const [name, value] of Object.entries(options)) {
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new RangeError(`page pool: ${name} must be a positive integer, not ${value}`);
      }
    }
    this.#numPages = options.numPages;
    this.#pageSize = options.pageSize;
    this.#numSlots = options.numSlots;
    this.#maxPagesPerSlot = options.maxPagesPerSlot;
    this.#owner = new Int32Array(options.numPages).fill(FREE);
    this.#tables = new Uint32Array(options.numSlots * options.maxPagesPerSlot);
    this.#counts = new Uint32Array(options.numSlots);
    this.#drained = new Uint32Array(options.numSlots);
    this.#numFree = options.numPages;
  }

  /**
   * A pool of more pages with the same pages in the same tables.
   *
   * @throws {RangeError} If it would have fewer.
   */
  grown(numPages: number): PagePool {
    if (numPages < this.#numPages) throw new RangeError("a page pool cannot shrink");
    const pool = new PagePool({
      numPages,
      pageSize: this.#pageSize,
      numSlots: this.#numSlots,
      maxPagesPerSlot: this.#maxPagesPerSlot,
    });
    pool.#owner.set(this.#owner);
    pool.#tables.set(this.#tables);
    pool.#counts.set(this.#counts);
    pool.#drained.set(this.#drained);
    pool.#numFree = this.#numFree + numPages - this.#numPages;
    pool.#lowestFree = this.#lowestFree;
    return pool;
  }

  get usage(): KvUsage {
    return {
      pageSize: this.#pageSize,
      numPages: this.#numPages,
      pagesInUse: this.#numPages - this.#numFree,
    };
  }

  /** Pages that the slot holds. */
  pageCount(slot: number): number {
    this.#checkSlot(slot);
    return this.#counts[slot]!;
  }

  /** The slot's pages in the order of their rows. A view: valid until the slot changes. */
  pageTable(slot: number): Uint32Array<ArrayBuffer> {
    this.#checkSlot(slot);
    const start = slot * this.#maxPagesPerSlot;
    return this.#tables.subarray(start, start + this.#counts[slot]!);
  }

  canBegin(slot: number, { numRows }: SequenceNeed): boolean {
    return this.canReserve(slot, numRows);
  }

  begin(slot: number, { numRows }: SequenceNeed): void {
    this.reserve(slot, numRows);
  }

  /** Whether rows 0 .. numTokens - 1 of the slot could be held, with what the slot has already. */
  canReserve(slot: number, numTokens: number): boolean {
    this.#checkSlot(slot);
    const wanted = this.#pagesFor(numTokens);
    return wanted <= this.#maxPagesPerSlot && wanted - this.#counts[slot]! <= this.#numFree;
  }

  /** @throws {RangeError} If there is no room; nothing has changed then. */
  reserve(slot: number, numTokens: number): void {
    if (!this.canReserve(slot, numTokens)) {
      throw new RangeError(
        `no room for ${numTokens} rows in slot ${slot}: ${this.#numFree} of ${this.#numPages} ` +
          `pages of ${this.#pageSize} rows are free, a slot holds ${this.#maxPagesPerSlot} at most`,
      );
    }
    const wanted = this.#pagesFor(numTokens);
    while (this.#counts[slot]! < wanted) this.#append(slot);
  }

  /** Frees the slot's pages. A slot without pages is left as it is. */
  release(slot: number): void {
    for (const page of this.pageTable(slot)) {
      assertPool(this.#owner[page] === slot, `page ${page} is not held by slot ${slot}`);
      this.#owner[page] = FREE;
      this.#numFree++;
      if (page < this.#lowestFree) this.#lowestFree = page;
    }
    this.#counts[slot] = 0;
    this.#drained[slot] = 0;
    assertPool(this.#numFree <= this.#numPages, "more pages are free than there are");
  }

  /** Takes a slot's pages out of its table; nobody else gets them until they come back. */
  detach(slot: number): Uint32Array<ArrayBuffer> {
    const pages = this.pageTable(slot).slice();
    for (const page of pages) this.#owner[page] = DETACHED;
    this.#counts[slot] = 0;
    this.#drained[slot] = 0;
    return pages;
  }

  /** Puts pages that were taken out into the table of a slot that has none. */
  attach(slot: number, pages: Uint32Array): void {
    assertPool(this.#counts[slot] === 0, `slot ${slot} has pages`);
    this.#tables.set(pages, slot * this.#maxPagesPerSlot);
    for (const page of pages) {
      assertPool(this.#owner[page] === DETACHED, `page ${page} was not taken out`);
      this.#owner[page] = slot;
    }
    this.#counts[slot] = pages.length;
    this.#drained[slot] = 0;
  }

  /** Frees pages that were taken out and will not come back. */
  discard(pages: Uint32Array): void {
    for (const page of pages) {
      assertPool(this.#owner[page] === DETACHED, `page ${page} was not taken out`);
      this.#owner[page] = FREE;
      this.#numFree++;
      if (page < this.#lowestFree) this.#lowestFree = page;
    }
  }

  /**
   * Table entries that were set since the last call, by slot. Entries of a slot that has been
   * released in between are not reported: nothing reads them.
   */
  drainChanges(): PageTableChange[] {
    const changes: PageTableChange[] = [];
    for (let slot = 0; slot < this.#numSlots; slot++) {
      const first = this.#drained[slot]!;
      if (first === this.#counts[slot]!) continue;
      changes.push({ slot, first, pages: this.pageTable(slot).subarray(first) });
      this.#drained[slot] = this.#counts[slot]!;
    }
    return changes;
  }

  /**
   * Checks the whole bookkeeping; for tests, since it walks every page.
   *
   * @throws {Error} If a page is owned twice, lost, or counted wrongly.
   */
  checkInvariants(): void {
    const seen = new Int32Array(this.#numPages).fill(FREE);
    let held = 0;
    for (let slot = 0; slot < this.#numSlots; slot++) {
      assertPool(this.#drained[slot]! <= this.#counts[slot]!, `slot ${slot} drained too far`);
      for (const page of this.pageTable(slot)) {
        assertPool(page < this.#numPages, `slot ${slot} holds page ${page}, which does not exist`);
        assertPool(seen[page] === FREE, `page ${page} is held twice`);
        seen[page] = slot;
        held++;
      }
    }
    const detached = this.#owner.reduce((sum, owner) => sum + Number(owner === DETACHED), 0);
    assertPool(held + detached + this.#numFree === this.#numPages, "pages were lost");
    for (let page = 0; page < this.#numPages; page++) {
      const out = this.#owner[page] === DETACHED;
      assertPool(out || seen[page] === this.#owner[page], `page ${page} has the wrong owner`);
      const free = seen[page] === FREE && !out;
      assertPool(page >= this.#lowestFree || !free, `page ${page} is overlooked`);
    }
  }

  #append(slot: number): void {
    let page = this.#lowestFree;
    while (page < this.#numPages && this.#owner[page] !== FREE) page++;
    assertPool(page < this.#numPages, "free pages are counted that do not exist");
    const index = this.#counts[slot]!;
    this.#owner[page] = slot;
    this.#tables[slot * this.#maxPagesPerSlot + index] = page;
    this.#counts[slot] = index + 1;
    this.#numFree--;
    this.#lowestFree = page + 1;
  }

  #pagesFor(numTokens: number): number {
    if (!Number.isSafeInteger(numTokens) || numTokens < 0) {
      throw new RangeError(`a number of rows must be a whole number, not ${numTokens}`);
    }
    return Math.ceil(numTokens / this.#pageSize);
  }

  #checkSlot(slot: number): void {
    if (!Number.isInteger(slot) || slot < 0 || slot >= this.#numSlots) {
      throw new RangeError(`slot ${slot} is outside 0 .. ${this.#numSlots - 1}`);
    }
  }
}

function assertPool(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`page pool: ${message}`);
}
