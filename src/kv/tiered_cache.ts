/**
 * The KV cache over all tiers, as the scheduler sees it. A sequence that fits the device alone lies
 * there as a whole while it runs; a longer one has a working set there and everything below.
 *
 * @module
 */
import { BLOCK_ROWS } from "./slab_pool.ts";
import type { DeviceTier } from "./device_tier.ts";
import { OffloadedRows } from "./offloaded.ts";
import { type MovedBytes, movedBytes } from "./moves.ts";
import type { KvStore } from "./store/types.ts";
import type { KvCache, KvUsage, SequenceNeed } from "./types.ts";
import { fitsDevice, refusalOf, type TierCapacity } from "./refusal.ts";
import { planWorkingSet } from "./working_set.ts";

/** Room for sequences in all tiers. */
export class TieredCache implements KvCache {
  readonly device: DeviceTier;
  readonly store: KvStore;
  readonly #offloaded = new Map<number, OffloadedRows>();
  /** Told of each slot that is released. */
  onRelease: (slot: number) => void = () => {};

  constructor(device: DeviceTier, store: KvStore) {
    this.device = device;
    this.store = store;
  }

  get usage(): KvUsage {
    return this.device.usage;
  }

  /** What a slot has below the device; null for one whose rows are all on it. */
  offloaded(slot: number): OffloadedRows | null {
    return this.#offloaded.get(slot) ?? null;
  }

  /** Bytes of keys and values of a slot by tier. */
  tiersOf(slot: number): { device: number; host: number; disk: number } {
    const half = this.store.partBytes;
    const rows = this.#offloaded.get(slot);
    if (rows === undefined) {
      return { device: this.device.pool.slotPages(slot) * half, host: 0, disk: 0 };
    }
    return { device: rows.numPages * half, ...rows.stored.bytes };
  }

  /** Whether a sequence of so many rows could lie on the device as a whole. */
  fitsDevice(maxRows: number): boolean {
    return fitsDevice(maxRows, this.#capacity);
  }

  /** Why a sequence could not run even alone; null if it could. */
  refusal(need: SequenceNeed): string | null {
    return refusalOf(need, this.#capacity);
  }

  /** Bytes of keys and values that each tier holds at most. */
  get capacities(): { deviceBytes: number; hostBytes: number; diskBytes: number } {
    const { hostCapacity, diskCapacity } = this.store.usage;
    const deviceBytes = this.device.pool.usage.numPages * this.store.partBytes;
    return { deviceBytes, hostBytes: hostCapacity, diskBytes: diskCapacity };
  }

  /** What each tier holds now, and blocks that only wait to be found again. */
  get loads() {
    const { usage: { pagesInUse, numPages } } = this.device.pool;
    const { partBytes, usage } = this.store;
    return {
      tiers: {
        device: { bytes: pagesInUse * partBytes, capacityBytes: numPages * partBytes },
        host: { bytes: usage.hostBytes, capacityBytes: usage.hostCapacity },
        disk: { bytes: usage.diskBytes, capacityBytes: usage.diskCapacity },
      },
      cachedBlocks: usage.numCached,
    };
  }

  /** What went from tier to tier so far, by sequences, prefixes and slot files. */
  get moved(): MovedBytes {
    return movedBytes(this.device.traffic, this.store.diskTraffic);
  }

  get #capacity(): TierCapacity {
    const { pool, numPages } = this.device;
    const { layerSlab, slabPages } = pool;
    const { partBytes, usage: { capacityBlocks } } = this.store;
    return { layerSlab, slabPages, numBlocks: numPages, capacityBlocks, partBytes };
  }

  canBegin(slot: number, need: SequenceNeed): boolean {
    if (this.fitsDevice(need.maxRows)) return this.device.canReserve(slot, need.numRows);
    const { pool } = this.device;
    return planWorkingSet(need, pool.layerSlab, pool.freePages) !== null &&
      this.store.canGrow(Math.floor(need.numRows / BLOCK_ROWS));
  }

  begin(slot: number, need: SequenceNeed): void {
    if (this.fitsDevice(need.maxRows)) return this.device.reserve(slot, need.numRows);
    const { pool } = this.device;
    const sets = planWorkingSet(need, pool.layerSlab, pool.freePages);
    if (sets === null) throw new RangeError(`no room for a working set in slot ${slot}`);
    const { numKvHeads } = this.store.shape;
    this.#offloaded.set(slot, new OffloadedRows(pool, slot, sets, numKvHeads, this.store.open()));
  }

  /** Rows of a sequence below the device take no pages as they grow. */
  canReserve(slot: number, numTokens: number): boolean {
    return this.#offloaded.has(slot) || this.device.canReserve(slot, numTokens);
  }

  reserve(slot: number, numTokens: number): void {
    if (!this.#offloaded.has(slot)) this.device.reserve(slot, numTokens);
  }

  release(slot: number): void {
    this.#offloaded.get(slot)?.[Symbol.dispose]();
    this.#offloaded.delete(slot);
    this.device.release(slot);
    this.onRelease(slot);
  }

  /**
   * Takes the stored rows out of a slot, which keeps nothing: for a sequence that is parked.
   *
   * @returns The rows, or null for a slot whose rows are all on the device.
   */
  detach(slot: number): OffloadedRows["stored"] | null {
    const rows = this.#offloaded.get(slot);
    if (rows === undefined) return null;
    rows.releasePages();
    this.#offloaded.delete(slot);
    return rows.stored;
  }

  /** Gives a slot that has just begun the stored rows of a sequence that was parked. */
  attach(slot: number, stored: OffloadedRows["stored"]): void {
    const fresh = this.#offloaded.get(slot);
    if (fresh === undefined) throw new RangeError(`slot ${slot} lies on the device as a whole`);
    fresh.adopt(stored);
  }

  [Symbol.dispose](): void {
    for (const slot of [...this.#offloaded.keys()]) this.release(slot);
    this.device[Symbol.dispose]();
    this.store[Symbol.dispose]();
  }
}
