/**
 * The tiers below the device as the rest of the engine sees them: sequences of token blocks, whose
 * rows are put and read, and never mind where they lie. Plain bookkeeping and files, no GPU object;
 * every call is synchronous.
 *
 * A BLOCK holds 32 positions in all layers. A PART is a block's share of one layer: (kv heads, 32,
 * head size) keys, then as many values, in the cache's type.
 *
 * @module
 */
import type { TierTraffic } from "../moves.ts";
import type { FileOps } from "./file_ops.ts";

/** Positions of a block. */
export const BLOCK_ROWS = 32;

/** What every part of a store looks like. */
export interface StoreShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** 2 (f16) or 4 (f32). A row of one head must be a whole number of 32-bit words. */
  readonly bytesPerValue: 2 | 4;
}

/** Size and places of a store. */
export interface StoreOptions {
  readonly shape: StoreShape;
  /**
   * What rows depend on beside the tokens: the model, and everything that changes what it computes
   * (its context length, where angles follow from that). Any text.
   */
  readonly fingerprint: string;
  /** Host memory for blocks; 0: every block lies on disk. */
  readonly hostBytes: number;
  /** Where blocks go that the host has no room for, and how much may lie there. */
  readonly disk: { readonly dir: string; readonly bytes: number } | null;
  /** Folder in which prefix blocks outlive the process. */
  readonly prefixDir: string | null;
  /** Bytes of {@linkcode prefixDir}; 16 GiB if not given. The oldest files go first. */
  readonly prefixBytes?: number;
  /** Stand-in for the file system, for tests. */
  readonly files?: FileOps;
  /** Stand-in for `new ArrayBuffer(bytes)`. What it throws means that the host is full. */
  readonly allocate?: (bytes: number) => ArrayBuffer;
  /** Told once of each thing that a person should know, in one line. */
  readonly onWarning: (message: string) => void;
}

/** Room and load of a store. Blocks of several owners count once. */
export interface StoreUsage {
  readonly hostBytes: number;
  readonly hostCapacity: number;
  /** Bytes of files, headers included; also of files that could not be removed yet. */
  readonly diskBytes: number;
  readonly diskCapacity: number;
  /** Blocks that host and disk hold together at most. A file takes more than its block. */
  readonly capacityBlocks: number;
  /** Blocks that sequences hold. */
  readonly numBlocks: number;
  /** Blocks that only wait to be found as a prefix; they give way to whatever needs their room. */
  readonly numCached: number;
  /** Blocks to be written to the prefix folder by {@linkcode KvStore.savePrefixes}. */
  readonly numUnsaved: number;
}

/** Bytes of keys and values of a sequence by tier. */
export interface StoredBytes {
  readonly host: number;
  readonly disk: number;
}

/** The blocks of one sequence, numbered from 0 without gaps. */
export interface StoredSequence extends Disposable {
  readonly numBlocks: number;
  readonly bytes: StoredBytes;

  /**
   * Writes one layer's part of a block. The block after the last exists from its first part on;
   * parts may come in any order and again, unless the block is shared.
   *
   * @param index - 0 .. numBlocks.
   * @param bytes - A whole part; rows from `numRows` on are kept, but nobody may rely on them.
   * @param numRows - Rows that count, 1 .. 32: fewer in the last block of a sequence that is parked.
   * @throws {StoreFullError} If there is no room. Nothing has changed then, for anybody.
   */
  putPart(index: number, layer: number, bytes: Uint8Array, numRows?: number): void;

  /** Rows that a block has in every layer; 0 while a part is missing. */
  rowsOf(index: number): number;

  /**
   * Reads a layer's part of a block.
   *
   * @param outOffset - Where it goes, in bytes.
   * @throws {StoreReadError} If the part is on disk and cannot be read as it was written.
   */
  readPart(index: number, layer: number, out: Uint8Array, outOffset: number): void;

  /** Reads a layer's parts of `count` blocks, one after the other; as {@linkcode readPart}. */
  readParts(first: number, count: number, layer: number, out: Uint8Array, outOffset: number): void;

  /**
   * Collects rows of one KV head. For each position: its D keys, then its D values; packed.
   *
   * @param positions - Ascending; only entries from .. from + count - 1 are used.
   * @param outOffset - In bytes, such that the place in memory is a multiple of 4.
   * @returns Bytes written: count * 2 * D * bytesPerValue.
   * @throws {StoreReadError} As {@linkcode readPart}.
   */
  gather(
    layer: number,
    head: number,
    positions: Uint32Array,
    from: number,
    count: number,
    out: Uint8Array,
    outOffset: number,
  ): number;

  /** What was offered with the prefix block that `index` was adopted from; null without. */
  extras(index: number): Uint8Array | null;

  /** Lets go of the blocks from `numBlocks` on. */
  truncate(numBlocks: number): void;
}

/** Whether an offered block may be adopted with what was kept beside it. */
export type AcceptPrefix = (extras: Uint8Array | null, index: number) => boolean;

/** Where blocks of all sequences live: host memory, and files below it. */
export interface KvStore extends Disposable {
  readonly shape: StoreShape;
  /** What rows depend on beside the tokens. */
  readonly fingerprint: string;
  /** Bytes of a part, and of a block's parts together. */
  readonly partBytes: number;
  readonly blockBytes: number;
  readonly usage: StoreUsage;
  /** What was spilled and what was read of that. The prefix folder is no tier: its files are not in it. */
  readonly diskTraffic: Readonly<TierTraffic>;

  /** A sequence without blocks. */
  open(): StoredSequence;

  /** Whether so many more blocks have room in host and disk together. */
  canGrow(numBlocks: number): boolean;

  /**
   * Names of the full blocks of a prompt: each covers all tokens up to the end of its block, the
   * fingerprint, the shape and the salt.
   *
   * @param salt - Keeps those apart who must not see each other's prefixes; or policies, whose
   * extras differ.
   */
  prefixKeys(ids: ArrayLike<number>, salt?: string): string[];

  /**
   * Keeps a full block findable, also after its sequence has ended, as long as nobody needs its
   * room. The block cannot be put again from here on. A block has one name and a name one block:
   * what comes later is ignored, but for extras where there were none.
   *
   * @param extras - Kept beside the block (copied); not counted in any cap, so they must be small.
   */
  offerPrefix(key: string, sequence: StoredSequence, index: number, extras?: Uint8Array): void;

  /**
   * A sequence that begins with the longest chain of `keys` that is found, in any tier or in the
   * prefix folder; perhaps none, and no more than there is room for. Blocks are shared, not copied.
   */
  adoptPrefix(keys: readonly string[], accept?: AcceptPrefix): StoredSequence;

  /**
   * Blocks of these names are not found any more, neither here nor in the prefix folder. Whoever has
   * one keeps it.
   *
   * @returns How many were there.
   */
  dropPrefix(keys: readonly string[]): number;

  /** How many of `keys` {@linkcode adoptPrefix} would find in memory, disk or folder, roughly. */
  countPrefix(keys: readonly string[]): number;

  /**
   * Writes offered blocks to the prefix folder, at most `limit` of them: a write and an fsync each,
   * so for moments in which nobody waits. Disposing of the store writes the rest.
   *
   * @returns How many are left.
   */
  savePrefixes(limit: number): number;

  /**
   * Gives up on what is still to be written to the prefix folder, for a process that has to end.
   *
   * @returns How many blocks those are.
   */
  skipSaving(): number;

  /** @throws {Error} If the books do not balance. Walks everything; for tests. */
  checkInvariants(): void;
}
