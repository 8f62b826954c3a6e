/** Brings blocks of the device's rows to the store. @module */
import type { Kernels } from "../gpu/kernels.ts";
import { Readback } from "../gpu/readback.ts";
import type { DeviceTier } from "./device_tier.ts";
import type { StoredSequence } from "./store/types.ts";
import { BLOCK_ROWS } from "./slab_pool.ts";

/** A copy between two buffers; see `Submission`. */
export interface CopySink {
  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, size: number): void;
  submit(): void;
}

interface Waiting {
  readonly stored: StoredSequence;
  readonly block: number;
  readonly layer: number;
  readonly numRows: number;
}

/** Parts that are read back together, in bytes. */
export const READ_BYTES = 16 * 2 ** 20;

/** Reads parts back, many at once: waiting for the device is what costs. */
export class BlockReader {
  readonly #kv: DeviceTier;
  readonly #readback: Readback;
  readonly #partBytes: number;
  #waiting: Waiting[] = [];
  /** What the store refused since the last {@linkcode flush}. */
  #failures = new Map<StoredSequence, unknown>();

  private constructor(kv: DeviceTier, readback: Readback, partBytes: number) {
    this.#kv = kv;
    this.#readback = readback;
    this.#partBytes = partBytes;
  }

  /** @param bytes Of parts that can wait together; at least one part. */
  static async create(
    kernels: Kernels,
    kv: DeviceTier,
    partBytes: number,
    bytes: number,
    mode?: "sync" | "awaited",
  ): Promise<BlockReader> {
    const count = Math.max(1, Math.floor(bytes / partBytes));
    return new BlockReader(
      kv,
      await Readback.create(kernels.device, count * partBytes, mode),
      partBytes,
    );
  }

  /** Parts that have room. */
  get capacity(): number {
    return this.#readback.size / this.#partBytes;
  }

  /**
   * Copies a block's page of keys and page of values; {@linkcode flush} brings them to the store, or
   * this, where there is no room for more of them.
   *
   * @param offset Bytes of both pages in their buffers.
   */
  async add(
    sink: CopySink,
    to: Waiting,
    keys: GPUBuffer,
    values: GPUBuffer,
    offset: number,
  ): Promise<void> {
    if (this.#waiting.length === this.capacity) await this.#store(sink);
    const half = this.#partBytes / 2;
    const at = this.#waiting.length * this.#partBytes;
    sink.copy(keys, offset, this.#readback.target, at, half);
    sink.copy(values, offset, this.#readback.target, at + half, half);
    this.#waiting.push(to);
  }

  /**
   * Waits for the device and stores what was added.
   *
   * @returns What the store refused, by sequence. Everything else was stored.
   */
  async flush(sink: CopySink): Promise<ReadonlyMap<StoredSequence, unknown>> {
    await this.#store(sink);
    const failures = this.#failures;
    this.#failures = new Map();
    return failures;
  }

  async #store(sink: CopySink): Promise<void> {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    this.#waiting = [];
    sink.submit();
    const bytes = await this.#readback.read(waiting.length * this.#partBytes);
    this.#kv.traffic.left += waiting.length * this.#partBytes;
    const failures = this.#failures;
    waiting.forEach(({ stored, block, layer, numRows }, index) => {
      if (failures.has(stored)) return;
      const part = bytes.subarray(index * this.#partBytes, (index + 1) * this.#partBytes);
      try {
        stored.putPart(block, layer, part, numRows);
      } catch (error) {
        failures.set(stored, error);
      }
    });
  }

  /** Forgets what waits: of a step that was given up. */
  drop(): void {
    this.#waiting = [];
    this.#failures = new Map();
  }

  [Symbol.dispose](): void {
    this.#readback[Symbol.dispose]();
  }
}

/** Throws what a flush came back with, if anything. */
export function throwFirst(failures: ReadonlyMap<StoredSequence, unknown>): void {
  for (const failure of failures.values()) throw failure;
}

/** Blocks that are whole when there are `numRows` rows. */
export function wholeBlocks(numRows: number): number {
  return Math.floor(numRows / BLOCK_ROWS);
}
