/**
 * Taking a sequence out of its slot and bringing it back: its rows, what is kept beside them, and what
 * was counted.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { wholeBlocks } from "../kv/block_reader.ts";
import type { Parking } from "../kv/parking.ts";
import type { StoredSequence } from "../kv/store/types.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { CacheSteps, ParkedSteps } from "./cache_steps.ts";
import type { DenseReports, DenseTally } from "./dense_reports.ts";
import type { ParkedRows } from "./runner_types.ts";
import { Submission } from "./submission.ts";

/** A sequence without a slot. */
export interface ParkedSlot extends ParkedRows {
  readonly stored: StoredSequence;
  readonly steps: ParkedSteps | null;
  readonly dense: DenseTally | null;
}

/** Who has something of a slot. */
export interface SlotParts {
  readonly kernels: Kernels;
  readonly cache: TieredCache;
  readonly parking: Parking;
  readonly steps: CacheSteps | null;
  readonly dense: DenseReports;
}

/**
 * Puts what a slot has where it outlives the slot.
 *
 * @returns Null if the store has no room; the slot is as it was then.
 */
export async function parkSlot(
  { kernels, cache, parking, steps: cacheSteps, dense: reports }: SlotParts,
  slot: number,
  numRows: number,
): Promise<ParkedSlot | null> {
  const below = cache.offloaded(slot);
  const submission = new Submission(kernels.device, "park");
  const stored = below?.stored ?? cache.store.open();
  // Of a sequence below the device only the unfinished block is missing there.
  const from = below === null ? 0 : wholeBlocks(numRows);
  const saved = await parking.save(submission, slot, numRows, stored, from);
  submission.submit();
  if (!saved) {
    if (below === null) stored[Symbol.dispose]();
    return null;
  }
  const steps = await cacheSteps?.park(slot, submission) ?? null;
  const dense = reports.tally(slot);
  submission.submit();
  cache.detach(slot);
  return {
    numRows,
    stored,
    steps,
    dense,
    // What is parked may go down to the disk, or come back to host memory.
    get tiers() {
      return { device: 0, ...stored.bytes };
    },
    [Symbol.dispose]() {
      stored[Symbol.dispose]();
      steps?.[Symbol.dispose]();
    },
  };
}

/**
 * Brings back what was parked, into a slot that has begun.
 *
 * @throws {StoreReadError} If a row cannot be read.
 */
export function restoreSlot(
  { kernels, cache, parking, steps: cacheSteps, dense: reports }: SlotParts,
  slot: number,
  { numRows, stored, steps, dense }: ParkedSlot,
): void {
  const below = cache.offloaded(slot);
  if (below !== null) {
    cache.attach(slot, stored);
    below.extend(numRows);
  }
  const sent = parking.load(slot, stored);
  if (below === null) stored[Symbol.dispose]();
  else stored.truncate(wholeBlocks(numRows));
  if (steps !== null) {
    cacheSteps!.resume(slot, numRows, steps, sent, new Submission(kernels.device, "restore"));
  }
  if (dense !== null) reports.resume(slot, dense, sent);
}
