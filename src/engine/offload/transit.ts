/**
 * Rows on their way through the device: the stage, which of a slot's blocks are on it, and how much
 * may be on its way at once.
 *
 * @module
 */
import type { Kernels } from "../../gpu/kernels.ts";
import { Readback } from "../../gpu/readback.ts";
import type { DeviceTier } from "../../kv/device_tier.ts";
import { Stage, stageBlocks } from "../../kv/stage.ts";

/** Uploads that may wait for the device: they pile up in host memory. */
const MOST_PENDING = 128 * 2 ** 20;

/** The stage and its bookkeeping. */
export class Transit implements Disposable {
  readonly stage: Stage;
  /** (slots, max pages) u32: the stage's pages where a slot's table has the blocks that are there. */
  readonly view: GPUBuffer;
  readonly #queue: GPUQueue;
  readonly #maxPages: number;
  readonly #idle: Readback;
  #pending = 0;

  private constructor(kernels: Kernels, kv: DeviceTier, stage: Stage, idle: Readback) {
    this.stage = stage;
    this.#queue = kernels.device.queue;
    this.#maxPages = kv.maxPages;
    this.#idle = idle;
    this.view = kernels.storage("stage view", kv.numSlots * kv.maxPages * 4);
  }

  /** @param partBytes Keys and values of a block of one layer. */
  static async create(
    kernels: Kernels,
    kv: DeviceTier,
    partBytes: number,
    readback?: "sync" | "awaited",
  ): Promise<Transit> {
    const stage = new Stage(kernels, kv, partBytes, stageBlocks(partBytes, kv.maxPages));
    return new Transit(kernels, kv, stage, await Readback.create(kernels.device, 16, readback));
  }

  /** Blocks first .. first + count - 1 of a slot are on the stage now, from its beginning on. */
  show(slot: number, first: number, count: number): void {
    const pages = Uint32Array.from({ length: count }, (_, i) => 2 * i);
    this.#queue.writeBuffer(this.view, (slot * this.#maxPages + first) * 4, pages);
  }

  /** Waits for the device when much is on its way: what waits takes host memory. */
  async throttle(bytes: number): Promise<void> {
    this.#pending += bytes;
    if (this.#pending < MOST_PENDING) return;
    this.#pending = 0;
    await this.#idle.copyAndRead(this.view, 0, 16);
  }

  /** Everything that was sent has arrived. */
  arrived(): void {
    this.#pending = 0;
  }

  [Symbol.dispose](): void {
    this.#idle[Symbol.dispose]();
    this.view.destroy();
    this.stage[Symbol.dispose]();
  }
}
