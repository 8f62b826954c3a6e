/** Which sequences could not run even alone, and why. Pure. @module */
import { BLOCK_ROWS } from "./slab_pool.ts";
import { pagesOf, planWorkingSet, smallestSet, type WorkingSetNeed } from "./working_set.ts";

/** What the tiers hold at most. */
export interface TierCapacity {
  /** Slab of each layer, and pages of each slab. */
  readonly layerSlab: readonly number[];
  readonly slabPages: readonly number[];
  /** Blocks that every layer could hold at once on the device. */
  readonly numBlocks: number;
  /** Blocks that host and disk hold together. */
  readonly capacityBlocks: number;
  /** Keys and values of a block of one layer. */
  readonly partBytes: number;
}

/** Whether a sequence of so many rows could lie on the device as a whole. */
export function fitsDevice(maxRows: number, { numBlocks }: TierCapacity): boolean {
  return Math.ceil(maxRows / BLOCK_ROWS) <= numBlocks;
}

/** Why a sequence could not run even alone; null if it could. */
export function refusalOf(need: WorkingSetNeed, capacity: TierCapacity): string | null {
  if (fitsDevice(need.maxRows, capacity)) return null;
  const { layerSlab, slabPages, capacityBlocks, partBytes } = capacity;
  if (planWorkingSet(need, layerSlab, slabPages) === null) {
    const least = smallestSet(need).reduce((sum, set) => sum + pagesOf(set), 0);
    const there = slabPages.reduce((sum, pages) => sum + pages, 0);
    return `the request needs at least ${least * partBytes} bytes of KV cache on the device for ` +
      `sinks, window and two blocks a layer, and there are ${there * partBytes}: give more with ` +
      "--kv-device, or ask for fewer sinks and a smaller window";
  }
  const wanted = Math.floor(need.maxRows / BLOCK_ROWS);
  if (wanted <= capacityBlocks) return null;
  const blockBytes = layerSlab.length * partBytes;
  return `the request needs ${wanted * blockBytes} bytes of KV cache below the device, host and ` +
    `disk hold ${capacityBlocks * blockBytes}: give more with --kv-host, or --kv-disk and ` +
    "--kv-disk-size";
}
