/** The blocks of one sequence. @module */
import type { Block } from "./block.ts";
import type { BlockSizes } from "./sizes.ts";
import { assertStore, StoreReadError } from "./errors.ts";
import type { Tiers } from "./tiers.ts";
import { BLOCK_ROWS, type StoredBytes, type StoredSequence } from "./types.ts";

/** Words of a row up to which a loop is faster than a copy of a view (measured). */
const LOOP_WORDS = 128;

/** Rows that are asked of the memory together: as many as a processor waits for at once (measured). */
const ROWS_AHEAD = 16;
/** Words of what a processor fetches as one. */
const LINE_WORDS = 16;

/** What a sequence needs of its store. */
export interface SequenceHost {
  readonly sizes: BlockSizes;
  readonly tiers: Tiers;
  /** A block turned out to be damaged: nobody else shall find it. */
  onDamage(block: Block): void;
  onDispose(sequence: BlockSequence): void;
}

/** {@linkcode StoredSequence} over {@linkcode Tiers}. */
export class BlockSequence implements StoredSequence {
  readonly #host: SequenceHost;
  readonly #blocks: Block[];
  readonly #extras: (Uint8Array | null)[];
  /** Keys and values of one head of a block that is on disk: (2, 32, D). */
  readonly #scratch: Uint8Array;
  readonly #scratchWords: Uint32Array;
  /** What {@linkcode #askFor} read, which nobody needs but which must not look unused. */
  #unused = 0;
  #isOpen = true;

  /** @param blocks - Owned by the sequence already. */
  constructor(host: SequenceHost, blocks: Block[], extras: (Uint8Array | null)[]) {
    this.#host = host;
    this.#blocks = blocks;
    this.#extras = extras;
    const scratch = new ArrayBuffer(2 * host.sizes.run);
    this.#scratch = new Uint8Array(scratch);
    this.#scratchWords = new Uint32Array(scratch);
  }

  get numBlocks(): number {
    return this.#blocks.length;
  }

  get bytes(): StoredBytes {
    let inHost = 0;
    for (const block of this.#blocks) if (block.host !== null) inHost++;
    const { block } = this.#host.sizes;
    return { host: inHost * block, disk: (this.#blocks.length - inHost) * block };
  }

  /** The block itself; for the store. */
  block(index: number): Block {
    return this.#blockAt(index);
  }

  putPart(index: number, layer: number, bytes: Uint8Array, numRows = BLOCK_ROWS): void {
    const { sizes, tiers } = this.#host;
    assertStore(this.#isOpen, "the sequence has ended");
    this.#checkLayer(layer);
    if (bytes.length !== sizes.part) {
      throw new RangeError(`a part has ${sizes.part} bytes, not ${bytes.length}`);
    }
    if (!Number.isInteger(numRows) || numRows < 1 || numRows > BLOCK_ROWS) {
      throw new RangeError(`a part has 1 to ${BLOCK_ROWS} rows, not ${numRows}`);
    }
    tiers.tick();
    if (index === this.#blocks.length) {
      this.#blocks.push(tiers.create(layer, bytes, numRows));
      return;
    }
    const block = this.#blockAt(index);
    assertStore(!block.isShared, `block ${index} is shared and cannot be put again`);
    tiers.put(block, layer, bytes, numRows);
  }

  rowsOf(index: number): number {
    return this.#blockAt(index).numRows;
  }

  readPart(index: number, layer: number, out: Uint8Array, outOffset: number): void {
    this.readParts(index, 1, layer, out, outOffset);
  }

  readParts(first: number, count: number, layer: number, out: Uint8Array, outOffset: number): void {
    const { sizes, tiers } = this.#host;
    this.#checkLayer(layer);
    checkRoom(out, outOffset, count * sizes.part);
    tiers.tick();
    for (let i = 0; i < count; i++) {
      const block = this.#blockAt(first + i);
      if (block.rows[layer]! === 0) throw this.#missing(first + i, layer);
      this.#reporting(block, () => tiers.read(block, layer, out, outOffset + i * sizes.part));
    }
  }

  gather(
    layer: number,
    head: number,
    positions: Uint32Array,
    from: number,
    count: number,
    out: Uint8Array,
    outOffset: number,
  ): number {
    const { sizes, tiers } = this.#host;
    const { shape } = sizes;
    this.#checkLayer(layer);
    if (!Number.isInteger(head) || head < 0 || head >= shape.numKvHeads) {
      throw new RangeError(`KV head ${head} is outside 0 .. ${shape.numKvHeads - 1}`);
    }
    const end = from + count;
    if (!(from >= 0 && count >= 0 && end <= positions.length)) {
      throw new RangeError(`positions ${from} .. ${end - 1} are not in ${positions.length}`);
    }
    const rowWords = sizes.row / 4;
    const size = count * 2 * sizes.row;
    checkRoom(out, outOffset, size);
    if ((out.byteOffset + outOffset) % 4 !== 0) {
      throw new RangeError(`rows cannot be gathered to byte ${outOffset}: not a multiple of 4`);
    }
    const target = new Uint32Array(out.buffer, out.byteOffset + outOffset, size / 4);
    const runWords = sizes.run / 4;
    const inBlock = (layer * sizes.part) / 4 + head * runWords;
    tiers.tick();
    let at = 0;
    let asked = from;
    for (let i = from; i < end;) {
      const index = positions[i]! >>> 5;
      const block = this.#blockAt(index);
      const rows = block.rows[layer]!;
      if (rows === 0) throw this.#missing(index, layer);
      let words = this.#scratchWords;
      let keys = 0;
      let values = runWords;
      if (block.host !== null) {
        tiers.touch(block);
        words = block.host.words;
        keys = inBlock;
        values = inBlock + shape.numKvHeads * runWords;
      } else if (this.#reporting(block, () => tiers.reach(block, layer, head, this.#scratch))) {
        // It is in host memory now.
        continue;
      }
      for (; i < end; i++) {
        const position = positions[i]!;
        if (position >>> 5 !== index) break;
        if (i === asked) {
          asked = Math.min(i + ROWS_AHEAD, end);
          this.#askFor(positions, i, asked, inBlock);
        }
        const row = position & 31;
        if (row >= rows) throw new RangeError(`position ${position} was never put`);
        copyWords(words, keys + row * rowWords, target, at, rowWords);
        copyWords(words, values + row * rowWords, target, at + rowWords, rowWords);
        at += 2 * rowWords;
      }
    }
    return size;
  }

  /**
   * Touches rows that are copied next. They lie far apart, and copied one by one each would be waited
   * for; read together, the memory looks for all of them at once.
   */
  #askFor(positions: Uint32Array, from: number, end: number, inBlock: number): void {
    const { sizes } = this.#host;
    const rowWords = sizes.row / 4;
    const toValues = sizes.shape.numKvHeads * sizes.run / 4;
    let sum = 0;
    for (let i = from; i < end; i++) {
      const position = positions[i]!;
      const words = this.#blocks[position >>> 5]?.host?.words;
      if (words === undefined) continue;
      const keys = inBlock + (position & 31) * rowWords;
      for (let at = keys; at < keys + rowWords; at += LINE_WORDS) {
        sum ^= words[at]! ^ words[at + toValues]!;
      }
    }
    this.#unused = sum;
  }

  extras(index: number): Uint8Array | null {
    this.#blockAt(index);
    return this.#extras[index] ?? null;
  }

  truncate(numBlocks: number): void {
    if (!(numBlocks >= 0 && numBlocks <= this.#blocks.length)) {
      throw new RangeError(`${numBlocks} blocks are not in 0 .. ${this.#blocks.length}`);
    }
    const { tiers } = this.#host;
    // The first block of a prefix is worth most: it is used last, so cached the longest.
    while (this.#blocks.length > numBlocks) {
      const block = this.#blocks.pop()!;
      tiers.tick();
      tiers.touch(block);
      tiers.disown(block);
    }
    if (this.#extras.length > numBlocks) this.#extras.length = numBlocks;
    tiers.retry();
  }

  /** Calling it again does nothing. */
  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.truncate(0);
    this.#isOpen = false;
    this.#host.onDispose(this);
  }

  #reporting<T>(block: Block, read: () => T): T {
    try {
      return read();
    } catch (error) {
      if (error instanceof StoreReadError) this.#host.onDamage(block);
      throw error;
    }
  }

  #blockAt(index: number): Block {
    const block = this.#blocks[index];
    if (block !== undefined) return block;
    throw new RangeError(`block ${index} is not in 0 .. ${this.#blocks.length - 1}`);
  }

  #checkLayer(layer: number): void {
    const { numLayers } = this.#host.sizes.shape;
    if (!Number.isInteger(layer) || layer < 0 || layer >= numLayers) {
      throw new RangeError(`layer ${layer} is outside 0 .. ${numLayers - 1}`);
    }
  }

  #missing(index: number, layer: number): RangeError {
    return new RangeError(`layer ${layer} of block ${index} was never put`);
  }
}

function checkRoom(out: Uint8Array, offset: number, size: number): void {
  if (Number.isInteger(offset) && offset >= 0 && offset + size <= out.length) return;
  throw new RangeError(`${size} bytes from byte ${offset} on are not in ${out.length}`);
}

function copyWords(
  from: Uint32Array,
  fromAt: number,
  to: Uint32Array,
  toAt: number,
  count: number,
): void {
  if (count > LOOP_WORDS) {
    to.set(from.subarray(fromAt, fromAt + count), toAt);
    return;
  }
  for (let i = 0; i < count; i++) to[toAt + i] = from[fromAt + i]!;
}
