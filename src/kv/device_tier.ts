/**
 * The KV cache in device memory: slabs of pages of keys and of values, and the page tables that the
 * kernels look rows up in.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import type { BufferPart, Kernels } from "../gpu/kernels.ts";
import type { ModelConfig } from "../model/types.ts";
import type { TierTraffic } from "./moves.ts";
import { BLOCK_ROWS, SlabPool } from "./slab_pool.ts";
import type { KvCache, KvUsage, SequenceNeed } from "./types.ts";

/** Piece in which room for later is tried; every adapter that is taken allows buffers of that size. */
const SPARE_PART_BYTES = 128 * 2 ** 20;

/** Blocks that are always tried for a sequence: a machine that is so small says no by itself. */
const LEAST_BLOCKS = 4;

/** Size and form of a device tier. */
export interface DeviceTierOptions {
  readonly kvType: "f16" | "f32";
  readonly contextLength: number;
  readonly numSlots: number;
  /** Device memory to leave for what comes later (the weights). */
  readonly spareBytes?: number;
  /** Bytes that the cache may have, where the device itself would not refuse. */
  readonly mostBytes?: number;
  /** Bytes of rows of keys and values on the device, if somebody set them. */
  readonly deviceBytes?: number | null;
}

/** Bytes of keys and values that one token takes in all layers. */
export function kvBytesPerToken(config: ModelConfig, kvType: "f16" | "f32"): number {
  return config.numLayers * kvBytesPerRow(config, kvType);
}

/** Bytes of keys and values that one token takes in one layer. */
export function kvBytesPerRow(config: ModelConfig, kvType: "f16" | "f32"): number {
  return 2 * config.numKvHeads * config.headDim * (kvType === "f16" ? 2 : 4);
}

/** What {@linkcode planSlabs} found. */
export interface SlabPlan {
  /** Slab of each layer. */
  readonly layerSlab: readonly number[];
  /** Pages of each slab. */
  readonly slabPages: readonly number[];
  /** Blocks that every layer could hold at once: longer sequences do not fit as a whole. */
  readonly numBlocks: number;
  /** What a person should know. */
  readonly notes: readonly string[];
}

/**
 * How many pages to make: for all slots at full length if the memory and the bindings allow, else as
 * many as do. Layers share as few slabs as the bindings allow.
 */
export function planSlabs(
  config: ModelConfig,
  options: DeviceTierOptions,
  maxBindingSize: number,
): SlabPlan {
  const { numLayers } = config;
  const rowBytes = kvBytesPerRow(config, options.kvType);
  const wanted = Math.ceil(options.contextLength / BLOCK_ROWS) * options.numSlots;
  const bound = Math.floor(maxBindingSize / (BLOCK_ROWS * rowBytes / 2));
  const mostBytes = options.mostBytes ?? Infinity;
  const blockBytes = BLOCK_ROWS * rowBytes * numLayers;
  // A few pages are always tried: a machine that is so small says no by itself.
  const afford = Math.max(LEAST_BLOCKS, Math.floor(mostBytes / blockBytes));
  const asked = options.deviceBytes ?? null;
  const set = asked === null ? Infinity : asked / blockBytes;
  const numPages = Math.floor(numLayers * Math.min(wanted, bound, afford, set));
  const plan = cutSlabs(numLayers, numPages, bound);
  const numRows = plan.numBlocks * BLOCK_ROWS;
  const reason = set <= Math.min(bound, afford)
    ? `--kv-device (${asked} bytes)`
    : afford < bound
    ? `half of the memory that the machine has left (${Math.floor(mostBytes / 2 ** 20)} MiB)`
    : `the adapter's largest binding (${maxBindingSize} bytes)`;
  const notes: string[] = [];
  if (numRows < options.contextLength) {
    notes.push(
      `the device holds ${numRows} tokens of KV cache, not the ${options.contextLength} of a whole ` +
        `context: limited by ${reason}. Of longer requests the rest is kept below it`,
    );
  } else if (plan.numBlocks < wanted) {
    notes.push(
      `the KV cache holds ${numRows} tokens, not ${options.numSlots} sequences of ` +
        `${options.contextLength}: limited by ${reason}`,
    );
  }
  return { ...plan, notes };
}

/**
 * Neighbouring layers share a slab, as many as a binding has room for. Pages that do not go up
 * evenly are the first slab's, whose layers are the ones that are kept whole.
 */
function cutSlabs(
  numLayers: number,
  numPages: number,
  bound: number,
): Pick<SlabPlan, "layerSlab" | "slabPages" | "numBlocks"> {
  const numBlocks = Math.floor(numPages / numLayers);
  const together = Math.max(1, Math.min(numLayers, Math.floor(bound / Math.max(1, numBlocks))));
  const numSlabs = Math.ceil(numLayers / together);
  const layerSlab = Array.from(
    { length: numLayers },
    (_, layer) => Math.floor(layer * numSlabs / numLayers),
  );
  const slabPages = new Array<number>(numSlabs).fill(0);
  for (const slab of layerSlab) slabPages[slab]! += numBlocks;
  slabPages[0] = Math.min(bound, slabPages[0]! + numPages - numBlocks * numLayers);
  return { layerSlab, slabPages, numBlocks };
}

/** Pages of keys and values on the device. */
export class DeviceTier implements KvCache {
  /** Blocks that every layer could hold at once. */
  readonly numPages: number;
  readonly contextLength: number;
  /** Pages of a slot in a layer's page table. */
  readonly maxPages: number;
  /** (layers, slots, maxPages) u32, each layer at a multiple of the adapter's alignment. */
  readonly pageTable: GPUBuffer;
  readonly notes: readonly string[];
  readonly pool: SlabPool;
  /** Counted by those who send and read rows; those included that only pass through. */
  readonly traffic: TierTraffic = { came: 0, left: 0 };
  /** Told of each slot that is released. */
  onRelease: (slot: number) => void = () => {};

  readonly #kernels: Kernels;
  readonly #plan: SlabPlan;
  /** By slab: (pages, kv heads, BLOCK_ROWS, head size). */
  readonly #keys: readonly GPUBuffer[];
  readonly #values: readonly GPUBuffer[];
  readonly #tableBytes: number;
  readonly #tableStride: number;
  readonly #numSlots: number;

  private constructor(
    kernels: Kernels,
    plan: SlabPlan,
    { numSlots, contextLength }: DeviceTierOptions,
    buffers: readonly GPUBuffer[],
  ) {
    this.#kernels = kernels;
    this.#plan = plan;
    this.#numSlots = numSlots;
    this.numPages = plan.numBlocks;
    this.contextLength = contextLength;
    this.notes = plan.notes;
    this.maxPages = Math.ceil(contextLength / BLOCK_ROWS);
    this.#keys = buffers.filter((_, index) => index % 2 === 0);
    this.#values = buffers.filter((_, index) => index % 2 === 1);
    this.#tableBytes = numSlots * this.maxPages * 4;
    const unit = kernels.caps.storageAlignment;
    this.#tableStride = Math.ceil(this.#tableBytes / unit) * unit;
    this.pageTable = kernels.storage("page table", plan.layerSlab.length * this.#tableStride);
    this.pool = new SlabPool({ ...plan, numSlots, maxBlocks: this.maxPages });
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
    const { plan, buffers } = await allocateMost(kernels, config, options);
    return new DeviceTier(kernels, plan, options, buffers);
  }

  /**
   * What {@linkcode create} would make now: tried on the device and given back.
   *
   * @throws {DeviceError} If not even a small one fits.
   */
  static async tryPlan(
    kernels: Kernels,
    config: ModelConfig,
    options: DeviceTierOptions,
  ): Promise<SlabPlan> {
    const { plan, buffers } = await allocateMost(kernels, config, options);
    for (const buffer of buffers) buffer.destroy();
    return plan;
  }

  /** Slab of keys that a layer's pages are in: (pages, kv heads, BLOCK_ROWS, head size). */
  keys(layer: number): GPUBuffer {
    return this.#keys[this.#plan.layerSlab[layer]!]!;
  }

  /** The same of values. */
  values(layer: number): GPUBuffer {
    return this.#values[this.#plan.layerSlab[layer]!]!;
  }

  /** Page table of a layer: (slots, maxPages) u32. */
  table(layer: number): BufferPart {
    return { buffer: this.pageTable, offset: layer * this.#tableStride, size: this.#tableBytes };
  }

  get usage(): KvUsage {
    const numLayers = this.#plan.layerSlab.length;
    const { pagesInUse } = this.pool.usage;
    return {
      pageSize: BLOCK_ROWS,
      numPages: this.numPages,
      pagesInUse: Math.ceil(pagesInUse / numLayers),
    };
  }

  canBegin(slot: number, { numRows }: SequenceNeed): boolean {
    return this.canReserve(slot, numRows);
  }

  begin(slot: number, { numRows }: SequenceNeed): void {
    this.reserve(slot, numRows);
  }

  canReserve(slot: number, numTokens: number): boolean {
    const blocks = Math.ceil(numTokens / BLOCK_ROWS);
    return blocks <= this.maxPages &&
      this.pool.hasRoom(
        this.#plan.layerSlab.map((_, layer) =>
          Math.max(0, blocks - this.pool.mappedCount(layer, slot))
        ),
      );
  }

  /** @throws {RangeError} If there is no room; nothing has changed then. */
  reserve(slot: number, numTokens: number): void {
    if (!this.canReserve(slot, numTokens)) {
      const { numPages, pagesInUse } = this.usage;
      throw new RangeError(
        `no room for ${numTokens} rows in slot ${slot}: ${numPages - pagesInUse} of ${numPages} ` +
          `pages of ${BLOCK_ROWS} rows are free, a slot holds ${this.maxPages} at most`,
      );
    }
    const blocks = Math.ceil(numTokens / BLOCK_ROWS);
    for (let layer = 0; layer < this.pool.numLayers; layer++) {
      const have = this.pool.mappedCount(layer, slot);
      for (let block = have; block < blocks; block++) this.pool.map(layer, slot, block);
    }
  }

  release(slot: number): void {
    this.pool.unmapSlot(slot);
    this.onRelease(slot);
  }

  /** Brings the page tables on the device up to date; to be called before a submission. */
  flush(): void {
    for (const { layer, slot, first, pages } of this.pool.drainChanges()) {
      this.#kernels.device.queue.writeBuffer(
        this.pageTable,
        layer * this.#tableStride + (slot * this.maxPages + first) * 4,
        pages,
      );
    }
  }

  /**
   * Shows the rows of a slot in another one too, which has none of its own, until that one begins
   * again: to be called when both tables are up to date.
   */
  alias(slot: number, source: number): void {
    for (let layer = 0; layer < this.pool.numLayers; layer++) {
      const pages = Uint32Array.from(
        { length: this.maxPages },
        (_, block) => this.pool.pageOf(layer, source, block),
      );
      this.#kernels.device.queue.writeBuffer(
        this.pageTable,
        layer * this.#tableStride + slot * this.maxPages * 4,
        pages,
      );
    }
  }

  /** Slots that the tables have room for. */
  get numSlots(): number {
    return this.#numSlots;
  }

  [Symbol.dispose](): void {
    for (const buffer of [...this.#keys, ...this.#values, this.pageTable]) buffer.destroy();
  }
}

/** Allocates what the device has room for, at most what is wanted. */
async function allocateMost(
  kernels: Kernels,
  config: ModelConfig,
  options: DeviceTierOptions,
): Promise<{ readonly plan: SlabPlan; readonly buffers: GPUBuffer[] }> {
  const { maxBindingSize } = kernels.caps;
  let plan = planSlabs(config, options, maxBindingSize);
  if (plan.slabPages.every((pages) => pages === 0)) {
    throw new DeviceError(
      "too_small",
      `there is no room for a page of keys: the adapter binds ${maxBindingSize} bytes at most` +
        (options.deviceBytes ? `, and --kv-device is ${options.deviceBytes} bytes` : ""),
    );
  }
  const pageBytes = BLOCK_ROWS * kvBytesPerRow(config, options.kvType) / 2;
  for (;;) {
    const buffers = await allocate(kernels, plan, pageBytes, options.spareBytes ?? 0);
    if (buffers !== null) return { plan, buffers };
    const numBlocks = Math.floor(plan.numBlocks / 2);
    if (numBlocks < LEAST_BLOCKS) {
      throw new DeviceError(
        "out_of_memory",
        "the device has no room for a KV cache beside the weights. Use a smaller or more " +
          "strongly quantised model.",
      );
    }
    plan = {
      ...cutSlabs(
        config.numLayers,
        numBlocks * config.numLayers,
        Math.floor(maxBindingSize / pageBytes),
      ),
      notes: [
        `device memory refused a larger KV cache: it holds ${numBlocks * BLOCK_ROWS} tokens`,
      ],
    };
  }
}

async function allocate(
  kernels: Kernels,
  plan: SlabPlan,
  pageBytes: number,
  spareBytes: number,
): Promise<GPUBuffer[] | null> {
  const { device } = kernels;
  const buffers: GPUBuffer[] = [];
  const spare: GPUBuffer[] = [];
  device.pushErrorScope("out-of-memory");
  device.pushErrorScope("validation");
  // No adapter tells how much memory it has: what must stay free is taken first, and given back.
  for (let left = spareBytes; left > 0;) {
    const size = Math.min(Math.ceil(left / 16) * 16, SPARE_PART_BYTES);
    spare.push(device.createBuffer({ label: "spare", size, usage: GPUBufferUsage.STORAGE }));
    left -= size;
  }
  plan.slabPages.forEach((pages, slab) => {
    const size = pages * pageBytes;
    buffers.push(kernels.storage(`keys ${slab}`, size), kernels.storage(`values ${slab}`, size));
  });
  const errors = [await device.popErrorScope(), await device.popErrorScope()];
  for (const buffer of spare) buffer.destroy();
  if (errors.every((error) => error === null)) return buffers;
  for (const buffer of buffers) buffer.destroy();
  return null;
}
