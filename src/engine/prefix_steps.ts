/**
 * Rows of prompts that were seen before: brings them into a slot, with what a policy keeps beside
 * them made from their keys, and takes those of a slot to the store.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import type { Parking } from "../kv/parking.ts";
import { StoreReadError } from "../kv/store/errors.ts";
import type { StoredSequence } from "../kv/store/types.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { Prefixes } from "./prefixes.ts";
import { Submission } from "./submission.ts";

/** What {@linkcode PrefixSteps} needs of a runner. */
export interface PrefixStepsOptions {
  readonly kernels: Kernels;
  readonly cache: TieredCache;
  readonly parking: () => Promise<Parking>;
  /** Whether what is kept beside the rows of a slot follows from them. */
  readonly canReuse: (slot: number) => boolean;
  /** Makes what is kept beside rows 0 .. numRows - 1, which are there. */
  readonly adopt: (slot: number, numRows: number) => Promise<void>;
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
    const { cache: { store }, canReuse } = this.#options;
    if (!canReuse(slot)) return 0;
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
        await this.#giveUp(slot, stored);
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
    const { cache, parking, adopt } = this.#options;
    const numRows = stored.numBlocks * BLOCK_ROWS;
    const below = cache.offloaded(slot);
    if (below !== null) {
      cache.attach(slot, stored);
      below.extend(numRows);
    }
    (await parking()).load(slot, stored);
    await adopt(slot, numRows);
    if (below === null) stored[Symbol.dispose]();
    return numRows;
  }

  /** The slot begins anew, without rows. */
  async #giveUp(slot: number, stored: StoredSequence): Promise<void> {
    const { cache, adopt } = this.#options;
    const below = cache.offloaded(slot);
    if (below?.stored === stored) {
      below.clear();
      cache.attach(slot, cache.store.open());
    } else stored[Symbol.dispose]();
    await adopt(slot, 0);
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
