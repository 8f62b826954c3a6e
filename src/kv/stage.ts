/**
 * Device memory that blocks pass through on their way to attention, when there is no page for them:
 * parts of blocks as the store has them, keys and values of a block side by side.
 *
 * @module
 */
import type { BufferPart, Kernels } from "../gpu/kernels.ts";
import type { DeviceTier } from "./device_tier.ts";
import { BLOCK_ROWS } from "./slab_pool.ts";

/** Device memory that blocks pass through: enough that a pass is worth a submission. */
const STAGE_BYTES = 4 * 2 ** 20;

/**
 * Blocks that a stage has room for.
 *
 * @param partBytes Keys and values of a block of one layer.
 * @param maxPages Blocks that a sequence can have.
 */
export function stageBlocks(partBytes: number, maxPages: number): number {
  return Math.max(2, Math.min(maxPages, Math.floor(STAGE_BYTES / partBytes)));
}

/** Blocks in device memory, for as long as one pass. */
export class Stage {
  /** Blocks that there is room for. */
  readonly capacity: number;
  /** Host memory of as many parts; filled by the caller. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** (1, capacity) u32: the page of each block; pages of keys are the even ones. */
  readonly table: GPUBuffer;
  readonly keys: BufferPart;
  readonly values: BufferPart;
  readonly #kernels: Kernels;
  readonly #kv: DeviceTier;
  readonly buffer: GPUBuffer;
  readonly #partBytes: number;

  /** @param partBytes Keys and values of a block of one layer. */
  constructor(kernels: Kernels, kv: DeviceTier, partBytes: number, capacity: number) {
    this.#kernels = kernels;
    this.#kv = kv;
    this.#partBytes = partBytes;
    this.capacity = capacity;
    const size = capacity * partBytes;
    this.bytes = new Uint8Array(size);
    this.buffer = kernels.storage("stage", size);
    // Keys of block i begin at page 2 i, its values one page further on.
    const pageBytes = partBytes / 2;
    this.keys = { buffer: this.buffer, offset: 0, size: size - pageBytes };
    this.values = { buffer: this.buffer, offset: pageBytes, size: size - pageBytes };
    this.table = kernels.storage("stage pages", capacity * 4);
    const pages = Uint32Array.from({ length: capacity }, (_, block) => 2 * block);
    kernels.device.queue.writeBuffer(this.table, 0, pages);
  }

  /** Device row of the stage's row `index`. */
  rowOf(index: number): number {
    return Math.floor(index / BLOCK_ROWS) * 2 * BLOCK_ROWS + index % BLOCK_ROWS;
  }

  /** Bytes of device memory. */
  get size(): number {
    return this.buffer.size;
  }

  /** Sends the first parts of {@linkcode bytes} to the device; what was submitted before is unharmed. */
  upload(numBlocks: number): void {
    const length = numBlocks * this.#partBytes;
    this.#kernels.device.queue.writeBuffer(this.buffer, 0, this.bytes, 0, length);
    this.#kv.traffic.came += length;
  }

  [Symbol.dispose](): void {
    this.buffer.destroy();
    this.table.destroy();
  }
}
