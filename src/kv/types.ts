/**
 * The KV cache as the engine sees it: room for the rows of sequences. Where a row lives is known
 * in this folder alone.
 *
 * @module
 */

import type { KvSettings } from "../butler/settings_types.ts";

/** Room and load of a cache. */
export interface KvUsage {
  readonly pageSize: number;
  readonly numPages: number;
  readonly pagesInUse: number;
}

/** What a sequence needs of a cache. */
export interface SequenceNeed {
  /** Rows that it begins with: those of its prompt, or those it had when it was parked. */
  readonly numRows: number;
  /** Rows that it can come to have. */
  readonly maxRows: number;
  readonly settings: KvSettings;
}

/** Keeps the key and value rows of sequences, addressed by slot and position. */
export interface KvCache {
  readonly usage: KvUsage;
  /** Whether a sequence could begin in a free slot now. */
  canBegin(slot: number, need: SequenceNeed): boolean;
  /**
   * Takes a sequence into a free slot and makes room for its first rows.
   *
   * @throws {RangeError} If there is no room; ask {@linkcode canBegin} first.
   */
  begin(slot: number, need: SequenceNeed): void;
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
