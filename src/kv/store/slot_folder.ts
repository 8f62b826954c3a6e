/**
 * Files of whole conversations: the rows of a slot, saved under a name that somebody chose. Unlike
 * prefix blocks they are read and written because somebody asked, so whatever is wrong with one is
 * an error that says so.
 *
 * ```
 *   0  "TBKVSLT1"             32  tokens                  112  zeros
 *   8  version                36  bytes of the salt       124  CRC-32 of what is before
 *  12  layers, kv heads,      40  zeros                   128  ids, salt
 *      head size, value size  48  SHA-256 of fingerprint       records, block by block and in it
 *  28  rows of a block        80  SHA-256 of ids, salt         layer by layer: part, CRC-32 of runs
 * ```
 *
 * Numbers are 32 bits, little endian.
 *
 * @module
 */
import { createHash, randomBytes } from "node:crypto";
import { crc32 } from "node:zlib";
import { checksumPart, encodeRecord, findDamage, readFully, writeFully } from "./block_file.ts";
import { SlotError, StoreFolderError } from "./errors.ts";
import type { FileOps } from "./file_ops.ts";
import { type BlockSizes, HEADER_BYTES } from "./sizes.ts";
import { isSlotName } from "./slot_name.ts";
import { isMissing, reasonWithoutPath, whyNoFolder } from "./spill_folder.ts";
import { BLOCK_ROWS, type StoredSequence } from "./types.ts";

const MAGIC = "TBKVSLT1";
const VERSION = 1;
const FRESH_NAME = /^\.[0-9a-f]{32}\.new$/;
/** Age at which a file that was never finished belongs to nobody any more. */
const FRESH_MS = 3_600_000;
const MAX_SALT_BYTES = 4096;

/** Room for slot files where nobody says how much. */
export const DEFAULT_SLOT_BYTES = 64 * 2 ** 30;

/** What rows were made from. */
export interface Conversation {
  /** A whole number of blocks. */
  readonly ids: Uint32Array;
  /** Who may share the rows: as for `KvStore.prefixKeys`. */
  readonly salt: string;
}

/** The folder of slot files. */
export class SlotFolder {
  readonly #sizes: BlockSizes;
  readonly #digest: Uint8Array;
  readonly #files: FileOps;
  readonly #dir: string;
  readonly #most: number;

  /**
   * @param digest - SHA-256 of the store's fingerprint.
   * @param bytes - Bytes that the files may have together.
   * @throws {StoreFolderError} If the folder cannot be made or listed.
   */
  constructor(
    sizes: BlockSizes,
    digest: Uint8Array,
    files: FileOps,
    dir: string,
    bytes = DEFAULT_SLOT_BYTES,
  ) {
    this.#sizes = sizes;
    this.#digest = digest;
    this.#files = files;
    this.#dir = dir;
    this.#most = bytes;
    try {
      files.makeFolder(dir);
      this.#sweep();
    } catch (error) {
      const what = `the folder ${dir} for slots`;
      throw new StoreFolderError(what, "--slot-dir", whyNoFolder(error), error);
    }
  }

  /**
   * Writes a conversation, whole or not at all; one of that name is replaced. A turn writes a block.
   *
   * @param stored - Its rows.
   * @returns Bytes written.
   * @throws {SlotError} For a name that cannot be, or a file that cannot be written.
   * @throws {StoreReadError} If rows cannot be read.
   */
  *save(name: string, conversation: Conversation, stored: StoredSequence): Generator<void, number> {
    const path = this.#pathOf(name);
    const head = this.#encodeHead(conversation);
    const { numLayers } = this.#sizes.shape;
    const { part, record } = this.#sizes;
    const numBlocks = conversation.ids.length / BLOCK_ROWS;
    const size = head.length + numBlocks * numLayers * record;
    this.#checkRoom(name, size);
    const fresh = `${this.#dir}/.${randomBytes(16).toString("hex")}.new`;
    const checksums = new Uint32Array(this.#sizes.runsPerPart);
    const rows = new Uint8Array(part);
    const out = new Uint8Array(record);
    let renamed = false;
    try {
      const handle = this.#writing(() => this.#files.create(fresh));
      try {
        this.#writing(() => writeFully(this.#files, handle, head, 0));
        let at = head.length;
        for (let block = 0; block < numBlocks; block++) {
          for (let layer = 0; layer < numLayers; layer++, at += record) {
            stored.readPart(block, layer, rows, 0);
            checksumPart(this.#sizes, rows, 0, checksums, 0);
            encodeRecord(this.#sizes, rows, 0, checksums, 0, out);
            this.#writing(() => writeFully(this.#files, handle, out, at));
          }
          yield;
        }
        this.#writing(() => this.#files.sync(handle));
      } finally {
        this.#files.close(handle);
      }
      this.#writing(() => this.#files.rename(fresh, path));
      renamed = true;
    } finally {
      if (!renamed) this.#removeQuietly(fresh);
    }
    return size;
  }

  /**
   * Reads a conversation. A turn reads a block; nothing of it may be used before the last one.
   *
   * @param maxTokens - Longer ones are refused.
   * @param stored - Without blocks; gets the rows.
   * @throws {SlotError} For a name that cannot be, or a file that is not there, not whole, damaged or
   * of another model.
   * @throws {StoreFullError} If there is no room for the rows.
   */
  *restore(
    name: string,
    maxTokens: number,
    stored: StoredSequence,
  ): Generator<void, { readonly conversation: Conversation; readonly bytes: number }> {
    const path = this.#pathOf(name);
    // Symbolic links are no files here: a name never leads out of the folder.
    if (!this.#reading(name, () => this.#find(name))) {
      throw new SlotError("slot_file_missing", `there is no slot file ${name}`);
    }
    const { size } = this.#reading(name, () => this.#files.state(path));
    const handle = this.#reading(name, () => this.#files.open(path, false));
    try {
      const { conversation, at: first } = this.#readHead(name, handle, size, maxTokens);
      const { numLayers } = this.#sizes.shape;
      const { part, record, runsPerPart } = this.#sizes;
      const bytes = new Uint8Array(record);
      const view = new DataView(bytes.buffer);
      const sums = new Uint32Array(runsPerPart);
      let at = first;
      for (let block = 0; block < conversation.ids.length / BLOCK_ROWS; block++) {
        for (let layer = 0; layer < numLayers; layer++, at += record) {
          this.#reading(name, () => readFully(this.#files, handle, bytes, at));
          for (let run = 0; run < runsPerPart; run++) {
            sums[run] = view.getUint32(part + run * 4, true);
          }
          if (findDamage(this.#sizes, bytes, 0, sums, 0) >= 0) {
            throw damaged(name, `wrong checksum in block ${block}`);
          }
          stored.putPart(block, layer, bytes.subarray(0, part));
        }
        yield;
      }
      return { conversation, bytes: size };
    } finally {
      this.#files.close(handle);
    }
  }

  #encodeHead({ ids, salt }: Conversation): Uint8Array {
    const saltBytes = new TextEncoder().encode(salt);
    const head = new Uint8Array(HEADER_BYTES + ids.length * 4 + saltBytes.length);
    const view = new DataView(head.buffer);
    head.set(this.#fixed());
    view.setUint32(32, ids.length, true);
    view.setUint32(36, saltBytes.length, true);
    ids.forEach((id, index) => view.setUint32(HEADER_BYTES + index * 4, id, true));
    head.set(saltBytes, HEADER_BYTES + ids.length * 4);
    head.set(createHash("sha256").update(head.subarray(HEADER_BYTES)).digest(), 80);
    view.setUint32(124, crc32(head.subarray(0, 124)), true);
    return head;
  }

  /** What all files of this model begin with. */
  #fixed(): Uint8Array {
    const fixed = new Uint8Array(80);
    const view = new DataView(fixed.buffer);
    fixed.set(new TextEncoder().encode(MAGIC));
    const { numLayers, numKvHeads, headDim, bytesPerValue } = this.#sizes.shape;
    [VERSION, numLayers, numKvHeads, headDim, bytesPerValue, BLOCK_ROWS].forEach((number, index) =>
      view.setUint32(8 + index * 4, number, true)
    );
    fixed.set(this.#digest, 48);
    return fixed;
  }

  #readHead(
    name: string,
    handle: number,
    size: number,
    maxTokens: number,
  ): { readonly conversation: Conversation; readonly at: number } {
    if (size < HEADER_BYTES) throw damaged(name, `it has ${size} bytes only`);
    const header = new Uint8Array(HEADER_BYTES);
    this.#reading(name, () => readFully(this.#files, handle, header, 0));
    const view = new DataView(header.buffer);
    if (new TextDecoder("latin1").decode(header.subarray(0, 8)) !== MAGIC) {
      throw new SlotError("slot_file_foreign", `the file ${name} is no slot file`);
    }
    if (view.getUint32(124, true) !== crc32(header.subarray(0, 124))) {
      throw damaged(name, "wrong checksum in its header");
    }
    const numTokens = view.getUint32(32, true);
    const saltLength = view.getUint32(36, true);
    const fixed = this.#fixed();
    const isOurs = fixed.every((byte, at) => (at >= 32 && at < 48) || byte === header[at]);
    if (!isOurs) {
      throw new SlotError(
        "slot_file_foreign",
        `the slot file ${name} was saved by another version, with another model, or with another --context or ` +
          "--kv-type",
      );
    }
    const { record, shape } = this.#sizes;
    const at = HEADER_BYTES + numTokens * 4 + saltLength;
    const numBlocks = numTokens / BLOCK_ROWS;
    // Before anything is allocated: what the file claims is what it has.
    if (
      !Number.isInteger(numBlocks) || numBlocks === 0 || saltLength > MAX_SALT_BYTES ||
      size !== at + numBlocks * shape.numLayers * record
    ) throw damaged(name, `its ${size} bytes are not what its header says`);
    if (numTokens > maxTokens) {
      throw new SlotError(
        "slot_file_too_long",
        `the slot file ${name} has ${numTokens} tokens, and the context has ${maxTokens}`,
      );
    }
    const rest = new Uint8Array(at - HEADER_BYTES);
    this.#reading(name, () => readFully(this.#files, handle, rest, HEADER_BYTES));
    const digest = createHash("sha256").update(rest).digest();
    if (digest.some((byte, index) => byte !== header[80 + index])) {
      throw damaged(name, "wrong checksum of its tokens");
    }
    const words = new DataView(rest.buffer);
    const ids = Uint32Array.from({ length: numTokens }, (_, i) => words.getUint32(i * 4, true));
    const salt = new TextDecoder().decode(rest.subarray(numTokens * 4));
    return { conversation: { ids, salt }, at };
  }

  #find(name: string): boolean {
    return this.#files.list(this.#dir).some((entry) => entry.name === name && entry.isFile);
  }

  /** @throws {SlotError} If the folder would get too large, or something else has the name. */
  #checkRoom(name: string, size: number): void {
    let total = size;
    for (const entry of this.#writing(() => this.#files.list(this.#dir))) {
      if (entry.name === name) {
        // Nobody who only has a key may put a conversation in the place of the model, say.
        if (entry.isFile && this.#isOurs(name)) continue;
        throw new SlotError(
          "slot_file_unwritable",
          `the file ${name} is no slot file and is not replaced`,
        );
      }
      if (entry.isFile) total += this.#sizeOf(entry.name);
    }
    if (total <= this.#most) return;
    throw new SlotError(
      "slot_folder_full",
      `the slot file ${name} needs ${size} bytes, and slot files would have ${total} together, which is more ` +
        `than ${this.#most} (--slot-dir-size)`,
    );
  }

  #isOurs(name: string): boolean {
    const magic = new Uint8Array(MAGIC.length);
    const handle = this.#writing(() => this.#files.open(`${this.#dir}/${name}`, false));
    try {
      readFully(this.#files, handle, magic, 0);
      return new TextDecoder("latin1").decode(magic) === MAGIC;
    } catch {
      return false;
    } finally {
      this.#files.close(handle);
    }
  }

  #sizeOf(name: string): number {
    try {
      return this.#files.state(`${this.#dir}/${name}`).size;
    } catch {
      // Gone meanwhile.
      return 0;
    }
  }

  #pathOf(name: string): string {
    if (!isSlotName(name)) {
      throw new SlotError("slot_name", "a slot file has 1 to 64 letters, digits, `.`, `_` or `-`");
    }
    return `${this.#dir}/${name}`;
  }

  #writing<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      const why = `it cannot be saved: ${reasonWithoutPath(error)}`;
      throw new SlotError("slot_file_unwritable", why, error);
    }
  }

  #reading<T>(name: string, action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (isMissing(error)) {
        throw new SlotError("slot_file_missing", `there is no slot file ${name}`, error);
      }
      throw damaged(name, reasonWithoutPath(error), error);
    }
  }

  /** Removes files that were never finished. */
  #sweep(): void {
    for (const { name, isFile } of this.#files.list(this.#dir)) {
      if (!isFile || !FRESH_NAME.test(name)) continue;
      const path = `${this.#dir}/${name}`;
      if (Date.now() - this.#files.state(path).mtimeMs > FRESH_MS) this.#removeQuietly(path);
    }
  }

  #removeQuietly(path: string): void {
    try {
      this.#files.remove(path);
    } catch {
      // A later start tries again.
    }
  }
}

function damaged(name: string, why: string, cause?: unknown): SlotError {
  return new SlotError("slot_file_damaged", `the slot file ${name} cannot be used: ${why}`, cause);
}
