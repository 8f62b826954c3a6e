/** {@linkcode KvStore}: sequences, prefixes and tiers put together. @module */
import { createHash } from "node:crypto";
import type { TierTraffic } from "../moves.ts";
import type { Block } from "./block.ts";
import { DiskTier } from "./disk_tier.ts";
import { assertStore, StoreFullError } from "./errors.ts";
import { systemFiles } from "./file_ops.ts";
import { HostTier } from "./host_tier.ts";
import { PrefixCache } from "./prefix_cache.ts";
import { DEFAULT_PREFIX_BYTES, PrefixFolder } from "./prefix_folder.ts";
import { prefixKeys } from "./prefix_keys.ts";
import { BlockSequence, type SequenceHost } from "./sequence.ts";
import { type BlockSizes, sizesOf } from "./sizes.ts";
import { Tiers } from "./tiers.ts";
import {
  type AcceptPrefix,
  BLOCK_ROWS,
  type KvStore,
  type StoredSequence,
  type StoreOptions,
  type StoreShape,
  type StoreUsage,
} from "./types.ts";

const NO_DISK: Readonly<TierTraffic> = { came: 0, left: 0 };

/** Key and value blocks of all sequences, in host memory and on disk. */
export class RowStore implements KvStore {
  readonly shape: StoreShape;
  readonly fingerprint: string;
  readonly #sizes: BlockSizes;
  readonly #host: HostTier;
  readonly #disk: DiskTier | null;
  readonly #tiers: Tiers;
  readonly #prefixes: PrefixCache;
  readonly #sequences = new Set<BlockSequence>();
  readonly #sequenceHost: SequenceHost;
  #isOpen = true;

  /**
   * @throws {RangeError} If the shape is impossible.
   * @throws {Error} If a folder cannot be used.
   */
  constructor(options: StoreOptions) {
    this.shape = options.shape;
    this.fingerprint = options.fingerprint;
    this.#sizes = sizesOf(options.shape);
    const files = options.files ?? systemFiles;
    const digest = createHash("sha256").update(options.fingerprint).digest();
    const allocate = options.allocate ?? ((bytes: number) => new ArrayBuffer(bytes));
    this.#host = new HostTier(this.#sizes.block, options.hostBytes, allocate);
    const { disk, prefixDir, onWarning } = options;
    const folder = prefixDir === null ? null : new PrefixFolder(
      this.#sizes,
      digest,
      files,
      prefixDir,
      options.prefixBytes ?? DEFAULT_PREFIX_BYTES,
      onWarning,
    );
    this.#disk = disk === null ? null : new DiskTier(this.#sizes, digest, files, disk, onWarning);
    const { block, file } = this.#sizes;
    if (options.hostBytes > 0 && options.hostBytes < block) {
      onWarning(`--kv-host is of no use below ${block} bytes, which is one block of rows`);
    }
    if (disk !== null && disk.bytes < file) {
      onWarning(`--kv-disk-size is of no use below ${file} bytes, which is one block of rows`);
    }
    this.#prefixes = new PrefixCache(folder, this.#sizes.block);
    this.#tiers = new Tiers(
      this.#sizes,
      this.#host,
      this.#disk,
      (block) => this.#prefixes.evict(this.#tiers, block),
    );
    this.#sequenceHost = {
      sizes: this.#sizes,
      tiers: this.#tiers,
      onDamage: (block) => this.#prefixes.remove(block),
      onDispose: (sequence) => void this.#sequences.delete(sequence),
    };
  }

  get partBytes(): number {
    return this.#sizes.part;
  }

  get blockBytes(): number {
    return this.#sizes.block;
  }

  get usage(): StoreUsage {
    const { block, file } = this.#sizes;
    return {
      hostBytes: this.#host.used * block,
      hostCapacity: this.#host.capacity * block,
      diskBytes: (this.#disk?.used ?? 0) * file,
      diskCapacity: (this.#disk?.capacity ?? 0) * file,
      capacityBlocks: this.#host.capacity + (this.#disk?.capacity ?? 0),
      numBlocks: this.#tiers.numOwned,
      numCached: this.#tiers.numBlocks - this.#tiers.numOwned,
      numUnsaved: this.#prefixes.numUnsaved,
    };
  }

  get diskTraffic(): Readonly<TierTraffic> {
    return this.#disk?.traffic ?? NO_DISK;
  }

  open(): StoredSequence {
    return this.#sequence([], []);
  }

  canGrow(numBlocks: number): boolean {
    return this.#tiers.canGrow(numBlocks);
  }

  prefixKeys(ids: ArrayLike<number>, salt = ""): string[] {
    return prefixKeys(this.fingerprint, this.shape, ids, salt);
  }

  offerPrefix(key: string, sequence: StoredSequence, index: number, extras?: Uint8Array): void {
    assertStore(
      sequence instanceof BlockSequence && this.#sequences.has(sequence),
      "a block is offered by a sequence that is not open here",
    );
    const block = sequence.block(index);
    assertStore(block.numRows === BLOCK_ROWS, `block ${index} is offered and not full`);
    if (block.key !== null && block.key !== key) return;
    this.#prefixes.add(key, block, index, extras ?? null);
  }

  adoptPrefix(keys: readonly string[], accept: AcceptPrefix = () => true): StoredSequence {
    const blocks: Block[] = [];
    const extras: (Uint8Array | null)[] = [];
    this.#tiers.tick();
    // What is here shall not make way for what has to be loaded.
    for (const key of keys) {
      const found = this.#prefixes.find(key);
      if (found !== null) this.#tiers.touch(found.block);
    }
    for (const [index, key] of keys.entries()) {
      const found = this.#adopt(key, index, accept);
      if (found === null) break;
      blocks.push(found.block);
      extras.push(found.extras);
    }
    this.#prefixes.touch(keys.slice(0, blocks.length));
    return this.#sequence(blocks, extras);
  }

  dropPrefix(keys: readonly string[]): number {
    // From the end: a chain is of no use without its beginning, which goes last.
    return keys.toReversed().filter((key) => this.#prefixes.drop(this.#tiers, key)).length;
  }

  countPrefix(keys: readonly string[]): number {
    const missing = keys.findIndex((key) => !this.#prefixes.has(key));
    return missing < 0 ? keys.length : missing;
  }

  savePrefixes(limit: number): number {
    return this.#prefixes.save(this.#tiers, limit);
  }

  skipSaving(): number {
    return this.#prefixes.skip();
  }

  checkInvariants(): void {
    this.#tiers.checkInvariants();
    this.#prefixes.checkInvariants(this.#tiers.blocks());
    const owners = new Map<Block, number>();
    for (const sequence of this.#sequences) {
      for (let index = 0; index < sequence.numBlocks; index++) {
        const block = sequence.block(index);
        owners.set(block, (owners.get(block) ?? 0) + 1);
      }
    }
    assertStore(owners.size === this.#tiers.numOwned, "a sequence's block is in no tier");
    for (const block of this.#tiers.blocks()) {
      assertStore(block.owners === (owners.get(block) ?? 0), "owners are miscounted");
    }
  }

  /** Saves what is to be saved, and ends all sequences. Calling it again does nothing. */
  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#prefixes.save(this.#tiers, Infinity);
    for (const sequence of [...this.#sequences]) sequence[Symbol.dispose]();
    for (const block of [...this.#tiers.blocks()]) {
      this.#prefixes.remove(block);
      this.#tiers.free(block);
    }
    this.#host.clear();
    this.#disk?.[Symbol.dispose]();
  }

  #sequence(blocks: Block[], extras: (Uint8Array | null)[]): BlockSequence {
    const sequence = new BlockSequence(this.#sequenceHost, blocks, extras);
    this.#sequences.add(sequence);
    return sequence;
  }

  /** A block by name, owned once more; null if there is none that is accepted and has room. */
  #adopt(
    key: string,
    index: number,
    accept: AcceptPrefix,
  ): { readonly block: Block; readonly extras: Uint8Array | null } | null {
    const found = this.#prefixes.find(key);
    if (found !== null) {
      if (!accept(found.extras, index)) return null;
      this.#tiers.own(found.block);
      this.#tiers.touch(found.block);
      return found;
    }
    const loaded = this.#prefixes.load(key);
    if (loaded === null || !accept(loaded.extras, index)) return null;
    try {
      const block = this.#tiers.create(null, loaded.bytes, BLOCK_ROWS);
      this.#prefixes.addLoaded(key, block, index, loaded.extras);
      return { block, extras: loaded.extras };
    } catch (error) {
      if (error instanceof StoreFullError) return null;
      throw error;
    }
  }
}
