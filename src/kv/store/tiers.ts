/**
 * Which block lies in host memory and which in a file: where a new one goes, who makes way for it,
 * and when one comes back.
 *
 * @module
 */
import { Block, type HostBuffer, leastRecent } from "./block.ts";
import type { BlockFile } from "./block_file.ts";
import type { DiskTier } from "./disk_tier.ts";
import { assertStore, fullError, type StoreFullError } from "./errors.ts";
import type { HostTier } from "./host_tier.ts";
import type { BlockSizes } from "./sizes.ts";

/** Blocks that one call may bring back into memory, in bytes: a caller waits for it. */
const BRING_BYTES = 16 * 2 ** 20;
/** Calls a layer that make a span of the clock: some ten decode steps. */
const CALLS_PER_SPAN = 64;

/** Told when a cached block makes way, while it can still be read. */
export type OnEvict = (block: Block) => void;

/** All blocks of a store. */
export class Tiers {
  readonly #sizes: BlockSizes;
  readonly #host: HostTier;
  readonly #disk: DiskTier | null;
  readonly #onEvict: OnEvict;
  readonly #inHost = new Set<Block>();
  readonly #onDisk = new Set<Block>();
  #numOwned = 0;
  #clock = 0;
  #span = 0;
  #bringBudget = 0;
  /** Span of the least recently used block in host memory, when it was last looked for. */
  #coldest = -1;

  constructor(sizes: BlockSizes, host: HostTier, disk: DiskTier | null, onEvict: OnEvict) {
    this.#sizes = sizes;
    this.#host = host;
    this.#disk = disk;
    this.#onEvict = onEvict;
  }

  /** Blocks that sequences hold. */
  get numOwned(): number {
    return this.#numOwned;
  }

  /** All blocks. */
  get numBlocks(): number {
    return this.#inHost.size + this.#onDisk.size;
  }

  /** Whether so many more blocks have room. Cached ones are no hindrance. */
  canGrow(numBlocks: number): boolean {
    const capacity = this.#host.capacity + (this.#disk?.capacity ?? 0);
    const stuck = (this.#disk?.used ?? 0) - this.#onDisk.size;
    return this.#numOwned + stuck + numBlocks <= capacity;
  }

  /** Starts a call: what is used in it is used at the same time. */
  tick(): void {
    this.#clock++;
    const span = Math.floor(this.#clock / (CALLS_PER_SPAN * this.#sizes.shape.numLayers));
    if (span !== this.#span) {
      this.#span = span;
      this.#coldest = leastRecent(this.#inHost)?.span ?? -1;
    }
    this.#bringBudget = BRING_BYTES;
  }

  /** Notes that a block is used. */
  touch(block: Block): void {
    block.lastUse = this.#clock;
    if (block.span === this.#span) return;
    block.spanBefore = block.span;
    block.span = this.#span;
  }

  own(block: Block): void {
    if (block.owners++ === 0) this.#numOwned++;
  }

  /** Gives up a claim; the block goes when nobody has one and it is not cached. */
  disown(block: Block): void {
    assertStore(block.owners > 0, "a block is given up twice");
    if (--block.owners > 0) return;
    this.#numOwned--;
    if (block.key === null) this.free(block);
  }

  /** Forgets a block that nobody owns. */
  free(block: Block): void {
    assertStore(block.owners === 0, "a block goes that is owned");
    if (block.host !== null) this.#leaveHost(block, block.host);
    if (block.file !== null) this.#leaveDisk(block, block.file);
  }

  /** Room may have been given back: believe no refusal any longer. */
  retry(): void {
    this.#host.retry();
    this.#disk?.retry();
  }

  /**
   * Makes a block, owned once, with one part of it or with all.
   *
   * @param layer - The part that `bytes` is; null: `bytes` is the whole block.
   * @throws {StoreFullError} If there is no room; nothing has changed but that cached blocks may
   * have gone.
   */
  create(layer: number | null, bytes: Uint8Array, numRows: number): Block {
    const block = new Block(this.#sizes.shape.numLayers);
    const first = layer ?? 0;
    const last = layer ?? this.#sizes.shape.numLayers - 1;
    const buffer = this.#takeHost();
    if (buffer !== null) {
      buffer.bytes.set(bytes, first * this.#sizes.part);
      block.rows.fill(numRows, first, last + 1);
      this.#enterHost(block, buffer);
    } else {
      const file = this.#retryOnDisk(() => {
        const file = this.#disk!.take();
        if (file === null) return null;
        for (let each = first; each <= last; each++) {
          const offset = (each - first) * this.#sizes.part;
          if (this.#disk!.writePart(file, each, bytes, offset)) continue;
          this.#disk!.discard(file);
          return null;
        }
        return file;
      });
      if (file === null) throw this.#full();
      block.rows.fill(numRows, first, last + 1);
      this.#enterDisk(block, file);
    }
    this.own(block);
    this.touch(block);
    return block;
  }

  /** Puts a part into a block. @throws {StoreFullError} As {@linkcode create}. */
  put(block: Block, layer: number, bytes: Uint8Array, numRows: number): void {
    const { host, file } = block;
    if (host !== null) {
      host.bytes.set(bytes, layer * this.#sizes.part);
    } else {
      const done = this.#retryOnDisk(() => this.#disk!.writePart(file!, layer, bytes, 0) || null);
      if (done === null) throw this.#full();
    }
    block.rows[layer] = numRows;
    this.touch(block);
  }

  /** Reads a part. @throws {StoreReadError} If it is on disk and damaged. */
  read(block: Block, layer: number, out: Uint8Array, outOffset: number): void {
    this.touch(block);
    if (block.host === null) this.#bring(block);
    if (block.host === null) {
      this.#disk!.readPart(block.file!, layer, out, outOffset);
      return;
    }
    const start = layer * this.#sizes.part;
    out.set(block.host.bytes.subarray(start, start + this.#sizes.part), outOffset);
  }

  /**
   * Where one head's rows of a layer can be read: in the block itself (true), or now in `scratch`,
   * as (2, 32, D), if the block is on disk.
   *
   * @throws {StoreReadError} If they are damaged.
   */
  reach(block: Block, layer: number, head: number, scratch: Uint8Array): boolean {
    this.touch(block);
    if (block.host === null) this.#bring(block);
    if (block.host !== null) return true;
    this.#disk!.readHead(block.file!, layer, head, scratch);
    return false;
  }

  /**
   * Reads all parts of a full block and leaves it where it is; no copy if it is in host memory.
   *
   * @param scratch - Room for a block, used if it is on disk.
   * @throws {StoreReadError} If it is on disk and damaged.
   */
  whole(block: Block, scratch: () => Uint8Array): Uint8Array {
    if (block.host !== null) return block.host.bytes;
    const bytes = scratch();
    for (let layer = 0; layer < block.rows.length; layer++) {
      this.#disk!.readPart(block.file!, layer, bytes, layer * this.#sizes.part);
    }
    return bytes;
  }

  /** @throws {Error} If the books do not balance. */
  checkInvariants(): void {
    let owned = 0;
    for (const block of this.#inHost) {
      assertStore(block.host !== null && block.file === null, "a block is not in host memory");
      if (block.owners > 0) owned++;
    }
    const buffers = new Set([...this.#inHost].map((block) => block.host));
    assertStore(buffers.size === this.#inHost.size, "two blocks have one buffer");
    for (const block of this.#onDisk) {
      assertStore(block.host === null && block.file !== null, "a block is not on disk");
      if (block.owners > 0) owned++;
    }
    const files = new Set([...this.#onDisk].map((block) => block.file));
    assertStore(files.size === this.#onDisk.size, "two blocks have one file");
    for (const block of this.blocks()) {
      assertStore(block.owners > 0 || block.key !== null, "a block is nobody's");
    }
    assertStore(owned === this.#numOwned, "owned blocks are miscounted");
    assertStore(this.#inHost.size === this.#host.used, "buffers are miscounted");
    assertStore(this.#onDisk.size <= (this.#disk?.used ?? 0), "files are miscounted");
  }

  *blocks(): Iterable<Block> {
    yield* this.#inHost;
    yield* this.#onDisk;
  }

  /** A buffer for a block; those of cached and then of long unused blocks are emptied for it. */
  #takeHost(): HostBuffer | null {
    for (;;) {
      const buffer = this.#host.take();
      if (buffer !== null) return buffer;
      const cached = this.#victimCached(this.#inHost);
      if (cached !== null) this.#demote(cached);
      else if (!this.#spillOldest()) return null;
    }
  }

  /** Moves a cached block from host memory to disk, where older cached ones make way; or drops it. */
  #demote(block: Block): void {
    while (!this.#spill(block)) {
      const other = this.#victimCached(this.#onDisk);
      const older = other !== null && other.lastUse < block.lastUse ? other : block;
      this.#evict(older);
      if (older === block) return;
    }
  }

  #spillOldest(): boolean {
    if (this.#disk === null) return false;
    const block = leastRecent(this.#inHost);
    if (block === null) return false;
    return this.#retryOnDisk(() => this.#spill(block) || null) !== null;
  }

  #spill(block: Block): boolean {
    const file = this.#disk?.take() ?? null;
    if (file === null) return false;
    if (!this.#disk!.writeBlock(file, block, block.host!.bytes)) {
      this.#disk!.discard(file);
      return false;
    }
    this.#leaveHost(block, block.host!);
    this.#enterDisk(block, file);
    return true;
  }

  /** Tries something that needs the disk, as long as cached blocks there can make way for it. */
  #retryOnDisk<T>(action: () => T | null): T | null {
    if (this.#disk === null) return null;
    for (;;) {
      const result = action();
      if (result !== null) return result;
      const cached = this.#victimCached(this.#onDisk);
      if (cached === null) return null;
      this.#evict(cached);
    }
  }

  #evict(block: Block): void {
    this.#onEvict(block);
    block.key = null;
    this.free(block);
  }

  /**
   * Brings a block back into memory: where there is room, where a cached block has it, or in place
   * of one that was not used for two spans of the clock in which this one was. A pass over more
   * blocks than fit therefore moves none in and out.
   */
  #bring(block: Block): void {
    if (block.stuck || this.#bringBudget < this.#sizes.block) return;
    let buffer = this.#host.take();
    if (buffer === null) {
      const cached = this.#victimCached(this.#inHost);
      if (cached !== null) {
        this.#demote(cached);
      } else {
        if (this.#coldest >= block.spanBefore) return;
        const cold = leastRecent(this.#inHost);
        this.#coldest = cold?.span ?? this.#span;
        if (cold === null || cold.span >= block.spanBefore || !this.#spill(cold)) return;
      }
      buffer = this.#host.take();
      if (buffer === null) return;
    }
    this.#bringBudget -= this.#sizes.block;
    const file = block.file!;
    try {
      for (let layer = 0; layer < block.rows.length; layer++) {
        if (block.rows[layer]! === 0) continue;
        this.#disk!.readPart(file, layer, buffer.bytes, layer * this.#sizes.part);
      }
    } catch {
      // What is wanted may still be readable: the caller reads that alone, and hears if it is not.
      block.stuck = true;
      this.#host.give(buffer);
      return;
    }
    this.#leaveDisk(block, file);
    this.#enterHost(block, buffer);
  }

  #victimCached(among: Set<Block>): Block | null {
    if (this.#numOwned === this.numBlocks) return null;
    return leastRecent(among, (block) => block.owners === 0);
  }

  #enterHost(block: Block, buffer: HostBuffer): void {
    block.host = buffer;
    this.#inHost.add(block);
  }

  #leaveHost(block: Block, buffer: HostBuffer): void {
    block.host = null;
    this.#inHost.delete(block);
    this.#host.give(buffer);
  }

  #enterDisk(block: Block, file: BlockFile): void {
    block.file = file;
    this.#onDisk.add(block);
  }

  #leaveDisk(block: Block, file: BlockFile): void {
    block.file = null;
    this.#onDisk.delete(block);
    this.#disk!.give(file);
  }

  #full(): StoreFullError {
    return fullError(this.#sizes.block, this.#host.capacity, this.#disk);
  }
}
