/**
 * What is kept of every row on the device so that it can be scored without its key: pages of 32
 * positions, one page number for all layers.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import { IMPORTANCE_DIMS, PAGE_ROWS, SUB_PAGE } from "../gpu/ops/list_params.ts";
import { PagePool } from "../kv/page_pool.ts";

/** Sizes of an {@linkcode ImportanceStore}. */
export interface ImportanceSizes {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: "f16" | "f32";
  readonly keys: ImportanceKeys;
  readonly numSlots: number;
  readonly contextLength: number;
}

/**
 * u32 of a page of one KV head: 16 f16 a row, or 16 bytes and a scale, or minima and maxima of two
 * sub-pages, whichever is more.
 */
export function importanceWords(
  { headDim, kvType, keys }: Pick<ImportanceSizes, "headDim" | "kvType" | "keys">,
): number {
  const projected = PAGE_ROWS * (keys === "f16" ? IMPORTANCE_DIMS / 2 : IMPORTANCE_DIMS / 4 + 1);
  const bounds = PAGE_ROWS / SUB_PAGE * 2 * headDim * (kvType === "f16" ? 2 : 4) / 4;
  return Math.max(projected, bounds);
}

/** Pages for sequences; grows with what they need. */
export class ImportanceStore {
  /** (slots + 1, maxPages) u32; the last slot is {@linkcode trashSlot}. */
  readonly pageTable: GPUBuffer;
  readonly maxPages: number;
  readonly words: number;
  readonly #kernels: Kernels;
  readonly #sizes: ImportanceSizes;
  #pool: PagePool;
  #layers: GPUBuffer[] = [];
  /** Rises when the buffers of the layers are other ones: what binds them has to be made again. */
  #generation = 0;

  constructor(kernels: Kernels, sizes: ImportanceSizes) {
    this.#kernels = kernels;
    this.#sizes = sizes;
    this.words = importanceWords(sizes);
    this.maxPages = Math.ceil(sizes.contextLength / PAGE_ROWS);
    const tableBytes = (sizes.numSlots + 1) * this.maxPages * 4;
    this.pageTable = kernels.storage("importance pages", tableBytes);
    this.#pool = this.#makePool(1);
    this.#layers = this.#makeLayers(1);
    this.#pool.reserve(this.trashSlot, 1);
    this.#upload();
  }

  /** Takes what is written for rows of sequences that have nothing here. */
  get trashSlot(): number {
    return this.#sizes.numSlots;
  }

  get generation(): number {
    return this.#generation;
  }

  /** (pages, KV heads, words) u32 of a layer; there is one once a sequence has begun. */
  layer(layer: number): GPUBuffer {
    return this.#layers[layer]!;
  }

  /** Bytes that one position takes in all layers. */
  get bytesPerToken(): number {
    return this.#sizes.numLayers * this.#pageBytes / PAGE_ROWS;
  }

  /** Bytes of all buffers. */
  get bytes(): number {
    return this.#layers.reduce((sum, buffer) => sum + buffer.size, 0);
  }

  /**
   * Takes pages for all the rows that a slot can come to have.
   *
   * @throws {DeviceError} If the device has no room for them.
   */
  async begin(slot: number, maxRows: number): Promise<void> {
    this.#pool.release(slot);
    if (!this.#pool.canReserve(slot, maxRows)) await this.#grow(Math.ceil(maxRows / PAGE_ROWS));
    this.#pool.reserve(slot, maxRows);
    this.#upload();
  }

  /** Makes everything zero that a slot has. */
  clear(slot: number): void {
    const { device } = this.#kernels;
    const pages = this.#pool.pageTable(slot).subarray(0, this.#pool.pageCount(slot));
    const encoder = device.createCommandEncoder({ label: "importance" });
    for (let i = 0; i < pages.length;) {
      let end = i + 1;
      while (end < pages.length && pages[end] === pages[end - 1]! + 1) end++;
      const bytes = this.#pageBytes;
      for (const layer of this.#layers) {
        encoder.clearBuffer(layer, pages[i]! * bytes, (end - i) * bytes);
      }
      i = end;
    }
    device.queue.submit([encoder.finish()]);
  }

  /** Takes what is kept out of a slot: its sequence is parked. */
  detach(slot: number): Uint32Array<ArrayBuffer> {
    const pages = this.#pool.detach(slot);
    this.end(slot);
    return pages;
  }

  /** Gives a slot what was kept of a sequence. */
  attach(slot: number, pages: Uint32Array): void {
    this.#pool.release(slot);
    this.#pool.attach(slot, pages);
    this.#upload();
  }

  /** What was kept of a sequence is not needed any more. */
  discard(pages: Uint32Array): void {
    this.#pool.discard(pages);
  }

  /** Shows what is kept of a slot's rows in another one too, which has nothing of its own. */
  alias(slot: number, source: number): void {
    const { queue } = this.#kernels.device;
    const pages = this.#pool.pageTable(source);
    queue.writeBuffer(this.pageTable, slot * this.maxPages * 4, pages);
  }

  /** Frees a slot's pages. */
  end(slot: number): void {
    this.#pool.release(slot);
    // Entries that nobody uses name the first page, which is the trash slot's.
    const words = new Uint32Array(this.maxPages);
    this.#kernels.device.queue.writeBuffer(this.pageTable, slot * this.maxPages * 4, words);
  }

  get #pageBytes(): number {
    return this.#sizes.numKvHeads * this.words * 4;
  }

  #makePool(numPages: number): PagePool {
    return new PagePool({
      numPages,
      pageSize: PAGE_ROWS,
      numSlots: this.#sizes.numSlots + 1,
      maxPagesPerSlot: this.maxPages,
    });
  }

  #makeLayers(numPages: number): GPUBuffer[] {
    return Array.from(
      { length: this.#sizes.numLayers },
      (_, layer) => this.#kernels.storage(`importance ${layer}`, numPages * this.#pageBytes),
    );
  }

  async #grow(more: number): Promise<void> {
    const { numPages, pagesInUse } = this.#pool.usage;
    const most = this.maxPages * this.#sizes.numSlots + 1;
    const wanted = Math.min(most, Math.max(pagesInUse + more, Math.min(most, numPages * 2)));
    const { device } = this.#kernels;
    const layers = await this.#kernels.tryBuffers(
      "what is kept of every row to choose rows by",
      () => this.#makeLayers(wanted),
      (made) => made.forEach((buffer) => buffer.destroy()),
    );
    const encoder = device.createCommandEncoder({ label: "importance" });
    this.#layers.forEach((old, layer) => {
      encoder.copyBufferToBuffer(old, 0, layers[layer]!, 0, old.size);
    });
    device.queue.submit([encoder.finish()]);
    for (const old of this.#layers) old.destroy();
    this.#layers = layers;
    this.#pool = this.#pool.grown(wanted);
    this.#generation++;
  }

  #upload(): void {
    for (const { slot, first, pages } of this.#pool.drainChanges()) {
      this.#kernels.device.queue.writeBuffer(
        this.pageTable,
        (slot * this.maxPages + first) * 4,
        pages,
      );
    }
  }

  [Symbol.dispose](): void {
    for (const buffer of [...this.#layers, this.pageTable]) buffer.destroy();
  }
}
