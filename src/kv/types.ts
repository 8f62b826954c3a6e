/**
 * The KV cache as the engine sees it: room for the rows of sequences. Where a row lives is known
 * in this folder alone.
 *
 * @module
 */

/** Room and load of a cache. */
export interface KvUsage {
  readonly pageSize: number;
  readonly numPages: number;
  readonly pagesInUse: number;
}

/** Keeps the key and value rows of sequences, addressed by slot and position. */
export interface KvCache {
  readonly usage: KvUsage;
  /** Whether rows 0 .. numTokens - 1 of the slot could be held, with what the slot has already. */
  canReserve(slot: number, numTokens: number): boolean;
  /**
   * Makes room for rows 0 .. numTokens - 1 of the slot. Rows that were written stay.
   *
   * @throws {RangeError} If there is no room; ask {@linkcode canReserve} first.
   */
  reserve(slot: number, numTokens: number): void;
  /** Forgets the slot's rows and frees their room. */
  release(slot: number): void;
}
