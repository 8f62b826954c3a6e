/** Rows of a whole sequence on their way from the device to the store and back. @module */
import type { Kernels } from "../gpu/kernels.ts";
import { BlockReader, type CopySink, READ_BYTES } from "./block_reader.ts";
import { BLOCK_ROWS, NO_PAGE } from "./slab_pool.ts";
import { StoreFullError } from "./store/errors.ts";
import type { StoredSequence } from "./store/types.ts";
import type { TieredCache } from "./tiered_cache.ts";

/** Moves whole sequences. */
export class Parking {
  readonly #kernels: Kernels;
  readonly #cache: TieredCache;
  readonly #reader: BlockReader;
  readonly #part: Uint8Array<ArrayBuffer>;

  private constructor(kernels: Kernels, cache: TieredCache, reader: BlockReader) {
    this.#kernels = kernels;
    this.#cache = cache;
    this.#reader = reader;
    this.#part = new Uint8Array(cache.store.partBytes);
  }

  static async create(
    kernels: Kernels,
    cache: TieredCache,
    readback?: "sync" | "awaited",
  ): Promise<Parking> {
    const { partBytes } = cache.store;
    return new Parking(
      kernels,
      cache,
      await BlockReader.create(kernels, cache.device, partBytes, READ_BYTES, readback),
    );
  }

  /**
   * Brings the rows of a slot to the store. The slot keeps its pages, to be released.
   *
   * @param from Blocks before this one are in `stored` already.
   * @returns Null if the store has no room; what it had of the sequence before is still there.
   */
  async save(
    sink: CopySink,
    slot: number,
    numRows: number,
    stored: StoredSequence,
    from: number,
  ): Promise<boolean> {
    const { device } = this.#cache;
    const { numLayers } = this.#cache.store.shape;
    const half = this.#cache.store.partBytes / 2;
    try {
      for (let block = from; block * BLOCK_ROWS < numRows; block++) {
        const rows = Math.min(BLOCK_ROWS, numRows - block * BLOCK_ROWS);
        for (let layer = 0; layer < numLayers; layer++) {
          const at = device.pool.pageOf(layer, slot, block) * half;
          const to = { stored, block, layer, numRows: rows };
          await this.#reader.add(sink, to, device.keys(layer), device.values(layer), at);
        }
      }
      for (const failure of (await this.#reader.flush(sink)).values()) throw failure;
      return true;
    } catch (error) {
      this.#reader.drop();
      if (!(error instanceof StoreFullError)) throw error;
      return false;
    }
  }

  /**
   * Brings blocks from the store to those pages that a slot has for them.
   *
   * @returns Bytes that were sent.
   * @throws {StoreReadError} If a block cannot be read.
   */
  load(slot: number, stored: StoredSequence): number {
    const { device } = this.#cache;
    const { numLayers } = this.#cache.store.shape;
    const half = this.#part.length / 2;
    const { queue } = this.#kernels.device;
    let sent = 0;
    let pending = 0;
    for (let block = 0; block < stored.numBlocks; block++) {
      for (let layer = 0; layer < numLayers; layer++) {
        const page = device.pool.pageOf(layer, slot, block);
        if (page === NO_PAGE) continue;
        stored.readPart(block, layer, this.#part, 0);
        queue.writeBuffer(device.keys(layer), page * half, this.#part, 0, half);
        queue.writeBuffer(device.values(layer), page * half, this.#part, half, half);
        device.traffic.came += this.#part.length;
        pending += this.#part.length;
        sent += this.#part.length;
      }
      // Uploads pile up in host memory until something is submitted.
      if (pending > READ_BYTES) {
        queue.submit([]);
        pending = 0;
      }
    }
    queue.submit([]);
    return sent;
  }

  [Symbol.dispose](): void {
    this.#reader[Symbol.dispose]();
  }
}
