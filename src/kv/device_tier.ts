/**
 * The KV cache in device memory: one buffer of keys and one of values a layer, in pages, and the
 * page tables that the kernels look rows up in.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import type { Kernels } from "../gpu/kernels.ts";
import type { ModelConfig } from "../model/types.ts";
import { PagePool } from "./page_pool.ts";
import type { KvCache, KvUsage } from "./types.ts";

/** Rows of a page. */
export const PAGE_SIZE = 32;

/** Piece in which room for later is tried; every adapter that is taken allows buffers of that size. */
const SPARE_PART_BYTES = 128 * 2 ** 20;

/** Size and form of a device tier. */
export interface DeviceTierOptions {
  readonly kvType: "f16" | "f32";
  readonly contextLength: number;
  readonly numSlots: number;
  /** Device memory to leave for what comes later (the weights). */
  readonly spareBytes?: number;
  /** Bytes that the cache may have, where the device itself would not refuse. */
  readonly mostBytes?: number;
}

/** Bytes of keys and values that one token takes in all layers. */
export function kvBytesPerToken(config: ModelConfig, kvType: "f16" | "f32"): number {
  return 2 * config.numLayers * config.numKvHeads * config.headDim * (kvType === "f16" ? 2 : 4);
}

/** What {@linkcode planPages} found. */
export interface PagePlan {
  readonly numPages: number;
  readonly contextLength: number;
  /** What a person should know. */
  readonly notes: readonly string[];
}

/**
 * How many pages to make and how long a sequence may be: all slots at full length if a layer's keys
 * fit one binding and all of it the memory, else as many as do.
 */
export function planPages(
  config: ModelConfig,
  options: DeviceTierOptions,
  maxBindingSize: number,
): PagePlan {
  const bytes = options.kvType === "f16" ? 2 : 4;
  const pageBytes = PAGE_SIZE * config.numKvHeads * config.headDim * bytes;
  const wanted = Math.ceil(options.contextLength / PAGE_SIZE) * options.numSlots;
  const bound = Math.floor(maxBindingSize / pageBytes);
  const mostBytes = options.mostBytes ?? Infinity;
  // A few pages are always tried: a machine that is so small says no by itself.
  const afford = Math.max(
    4,
    Math.floor(mostBytes / (PAGE_SIZE * kvBytesPerToken(config, options.kvType))),
  );
  const numPages = Math.min(wanted, bound, afford);
  const reason = afford < bound
    ? `half of the memory that the machine has left (${Math.floor(mostBytes / 2 ** 20)} MiB)`
    : `the adapter's largest binding (${maxBindingSize} bytes)`;
  const contextLength = Math.min(options.contextLength, numPages * PAGE_SIZE);
  const notes: string[] = [];
  if (contextLength < options.contextLength) {
    notes.push(
      `context cut from ${options.contextLength} to ${contextLength} tokens: limited by ` +
        reason,
    );
  } else if (numPages < wanted) {
    notes.push(
      `the KV cache holds ${numPages * PAGE_SIZE} tokens, not ${options.numSlots} sequences of ` +
        `${contextLength}: limited by ${reason}`,
    );
  }
  return { numPages, contextLength, notes };
}

/** Pages of keys and values on the device. */
export class DeviceTier implements KvCache {
  readonly numPages: number;
  readonly contextLength: number;
  /** Pages of a slot in {@linkcode pageTable}. */
  readonly maxPages: number;
  /** Layers of (pages, kv heads, PAGE_SIZE, head size). */
  readonly keys: readonly GPUBuffer[];
  readonly values: readonly GPUBuffer[];
  /** (slots, maxPages) u32 */
  readonly pageTable: GPUBuffer;
  readonly notes: readonly string[];

  readonly #kernels: Kernels;
  readonly #pool: PagePool;

  private constructor(
    kernels: Kernels,
    plan: PagePlan,
    numSlots: number,
    buffers: readonly GPUBuffer[],
  ) {
    this.#kernels = kernels;
    this.numPages = plan.numPages;
    this.contextLength = plan.contextLength;
    this.notes = plan.notes;
    this.maxPages = Math.ceil(plan.contextLength / PAGE_SIZE);
    this.keys = buffers.filter((_, index) => index % 2 === 0);
    this.values = buffers.filter((_, index) => index % 2 === 1);
    this.pageTable = kernels.storage("page table", numSlots * this.maxPages * 4);
    this.#pool = new PagePool({
      numPages: plan.numPages,
      pageSize: PAGE_SIZE,
      numSlots,
      maxPagesPerSlot: this.maxPages,
    });
  }

  /**
   * Allocates the cache; halves it while the device refuses, and says so.
   *
   * @throws {DeviceError} If not even a small one fits.
   */
  static async create(
    kernels: Kernels,
    config: ModelConfig,
    options: DeviceTierOptions,
  ): Promise<DeviceTier> {
    let plan = planPages(config, options, kernels.caps.maxBindingSize);
    if (plan.numPages === 0) {
      throw new DeviceError(
        "too_small",
        `a page of keys does not fit the adapter's bindings of ${kernels.caps.maxBindingSize} bytes`,
      );
    }
    for (;;) {
      const buffers = await allocate(kernels, config, options, plan.numPages);
      if (buffers !== null) return new DeviceTier(kernels, plan, options.numSlots, buffers);
      const numPages = Math.floor(plan.numPages / 2);
      if (numPages < 4) {
        throw new DeviceError(
          "out_of_memory",
          "the device has no room for a KV cache beside the weights. Use a smaller or more " +
            "strongly quantised model.",
        );
      }
      const contextLength = Math.min(plan.contextLength, numPages * PAGE_SIZE);
      plan = {
        numPages,
        contextLength,
        notes: [
          `device memory refused a larger KV cache: it holds ${numPages * PAGE_SIZE} tokens, ` +
          `a sequence at most ${contextLength}`,
        ],
      };
    }
  }

  get usage(): KvUsage {
    return this.#pool.usage;
  }

  canReserve(slot: number, numTokens: number): boolean {
    return this.#pool.canReserve(slot, numTokens);
  }

  reserve(slot: number, numTokens: number): void {
    this.#pool.reserve(slot, numTokens);
  }

  release(slot: number): void {
    this.#pool.release(slot);
  }

  /** Brings the page tables on the device up to date; to be called before a submission. */
  flush(): void {
    for (const { slot, first, pages } of this.#pool.drainChanges()) {
      this.#kernels.device.queue.writeBuffer(
        this.pageTable,
        (slot * this.maxPages + first) * 4,
        pages,
      );
    }
  }

  [Symbol.dispose](): void {
    for (const buffer of [...this.keys, ...this.values, this.pageTable]) buffer.destroy();
  }
}

async function allocate(
  kernels: Kernels,
  config: ModelConfig,
  options: DeviceTierOptions,
  numPages: number,
): Promise<GPUBuffer[] | null> {
  const bytes = options.kvType === "f16" ? 2 : 4;
  const size = numPages * PAGE_SIZE * config.numKvHeads * config.headDim * bytes;
  const { device } = kernels;
  const buffers: GPUBuffer[] = [];
  const spare: GPUBuffer[] = [];
  device.pushErrorScope("out-of-memory");
  device.pushErrorScope("validation");
  // No adapter tells how much memory it has: what must stay free is taken first, and given back.
  for (let left = options.spareBytes ?? 0; left > 0;) {
    const size = Math.min(Math.ceil(left / 16) * 16, SPARE_PART_BYTES);
    spare.push(device.createBuffer({ label: "spare", size, usage: GPUBufferUsage.STORAGE }));
    left -= size;
  }
  for (let layer = 0; layer < config.numLayers; layer++) {
    buffers.push(kernels.storage(`keys ${layer}`, size), kernels.storage(`values ${layer}`, size));
  }
  const errors = [await device.popErrorScope(), await device.popErrorScope()];
  for (const buffer of spare) buffer.destroy();
  if (errors.every((error) => error === null)) return buffers;
  for (const buffer of buffers) buffer.destroy();
  return null;
}
