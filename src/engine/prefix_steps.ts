/**
 * Rows of prompts that were seen before: brings them into a slot, with what a policy keeps beside
 * them made from their keys, and takes those of a slot to the store.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import type { OffloadedRows } from "../kv/offloaded.ts";
import type { Parking } from "../kv/parking.ts";
import { StoreReadError } from "../kv/store/errors.ts";
import type { StoredSequence } from "../kv/store/types.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { CacheSteps } from "./cache_steps.ts";
import type { Prefixes } from "./prefixes.ts";
import { Submission } from "./submission.ts";

/** What {@linkcode PrefixSteps} needs of a runner. */
export interface PrefixStepsOptions {
  readonly kernels: Kernels;
  readonly cache: TieredCache;
  /** Rows that are taken together, at most. */
  readonly maxPrefill: number;
  readonly parking: () => Promise<Parking>;
  /** Null while every sequence attends to everything and lies on the device. */
  readonly steps: () => CacheSteps | null;
  /** Writes the step's uniform for rows of which something is kept. */
  readonly writeCounts: (storeCounts: readonly number[]) => void;
  /** Rows 0 .. numRows - 1 of a slot are there. */
  readonly onRows: (slot: number, numRows: number) => void;
}

/** Damaged blocks that are put up with for one sequence. */
const MOST_ATTEMPTS = 3;

/** Prefixes in the tiers of an engine. */
export class PrefixSteps implements Prefixes {
  readonly #options: PrefixStepsOptions;

  constructor(options: PrefixStepsOptions) {
    this.#options = options;
  }

  keys(ids: readonly number[], salt: string): readonly string[] {
    return this.#options.cache.store.prefixKeys(ids, salt);
  }

  save(limit: number): number {
    return this.#options.cache.store.savePrefixes(limit);
  }

  async adopt(slot: number, keys: readonly string[]): Promise<number> {
    const { cache: { store }, steps } = this.#options;
    if (steps()?.canReuse(slot) === false) return 0;
    // A block that turns out to be damaged is not found again: the chain ends before it then.
    for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
      if (store.countPrefix(keys) === 0) return 0;
      const stored = store.adoptPrefix(keys);
      if (stored.numBlocks === 0) {
        stored[Symbol.dispose]();
        return 0;
      }
      try {
        return await this.#take(slot, stored);
      } catch (error) {
        this.#giveUp(slot, stored);
        if (!(error instanceof StoreReadError)) throw error;
      }
    }
    return 0;
  }

  async offer(slot: number, keys: readonly string[]): Promise<void> {
    const { cache, kernels, parking } = this.#options;
    const { store } = cache;
    const known = store.countPrefix(keys);
    if (known === keys.length) return;
    const below = cache.offloaded(slot);
    if (below !== null) return this.#name(keys, below.stored);
    const count = known + this.#room(known, keys.length - known);
    if (count === known) return;
    using stored = store.adoptPrefix(keys.slice(0, known));
    const submission = new Submission(kernels.device, "prefix");
    const from = stored.numBlocks;
    // What the store has no room for after all is left out.
    await (await parking()).save(submission, slot, count * BLOCK_ROWS, stored, from);
    submission.submit();
    this.#name(keys, stored);
  }

  async #take(slot: number, stored: StoredSequence): Promise<number> {
    const { cache, parking, onRows } = this.#options;
    const numRows = stored.numBlocks * BLOCK_ROWS;
    const below = cache.offloaded(slot);
    const loads = await parking();
    if (below !== null) {
      await this.#storeBelow(slot, below, stored, numRows);
      cache.attach(slot, stored);
      below.extend(numRows);
      loads.load(slot, stored);
    } else {
      loads.load(slot, stored);
      this.#storeResident(slot, numRows);
      stored[Symbol.dispose]();
    }
    onRows(slot, numRows);
    return numRows;
  }

  /** The slot begins anew, without rows. */
  #giveUp(slot: number, stored: StoredSequence): void {
    const { cache } = this.#options;
    const below = cache.offloaded(slot);
    if (below?.stored === stored) {
      below.clear();
      cache.attach(slot, cache.store.open());
    } else stored[Symbol.dispose]();
  }

  /** What is kept beside rows that are on the device. */
  #storeResident(slot: number, numRows: number): void {
    const { kernels, cache, steps, maxPrefill, writeCounts } = this.#options;
    const cacheSteps = steps();
    if (cacheSteps === null) return;
    cache.device.flush();
    for (let start = 0; start < numRows; start += maxPrefill) {
      const count = Math.min(maxPrefill, numRows - start);
      if (!cacheSteps.preparePrefill(slot, start, count, numRows)) return;
      writeCounts(cacheSteps.storeCounts);
      const submission = new Submission(kernels.device, "prefix");
      for (let layer = 0; layer < cache.store.shape.numLayers; layer++) {
        cacheSteps.encodePrefill(submission, slot, layer);
      }
      submission.submit();
    }
  }

  /** The same beside rows that lie below it: their keys pass through where those of a chunk are. */
  async #storeBelow(
    slot: number,
    rows: OffloadedRows,
    stored: StoredSequence,
    numRows: number,
  ): Promise<void> {
    const { kernels, steps, maxPrefill, writeCounts } = this.#options;
    const cacheSteps = steps()!;
    for (let start = 0; start < numRows; start += maxPrefill) {
      const count = Math.min(maxPrefill, numRows - start);
      if (!cacheSteps.preparePrefill(slot, start, count, numRows)) return;
      writeCounts(cacheSteps.storeCounts);
      const submission = new Submission(kernels.device, "prefix");
      await cacheSteps.encodeStored(submission, { slot, rows, start, count, tails: [] }, stored);
      submission.submit();
    }
  }

  /** Blocks that can be put without pushing rows of running sequences out of host memory. */
  #room(known: number, wanted: number): number {
    const { store } = this.#options.cache;
    const { hostCapacity, numBlocks } = store.usage;
    const inHost = Math.floor(hostCapacity / store.blockBytes);
    if (inHost > 0) return Math.max(0, Math.min(wanted, inHost - numBlocks - known));
    return store.canGrow(wanted) ? wanted : 0;
  }

  #name(keys: readonly string[], stored: StoredSequence): void {
    const { store } = this.#options.cache;
    for (let block = 0; block < Math.min(keys.length, stored.numBlocks); block++) {
      if (stored.rowsOf(block) === BLOCK_ROWS) store.offerPrefix(keys[block]!, stored, block);
    }
  }
}
