/**
 * Prefix blocks that outlive the process: files named by their key, under a cap. Nothing here is
 * ever an error for a request: what cannot be used is left aside with a warning.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { crc32 } from "node:zlib";
import {
  checksumPart,
  encodeHeader,
  encodeRecord,
  extrasLength,
  readFully,
  recordOffset,
  writeFully,
} from "./block_file.ts";
import { StoreFolderError } from "./errors.ts";
import type { FileOps } from "./file_ops.ts";
import { OldestFirst } from "./oldest_first.ts";
import { type BlockSizes, HEADER_BYTES } from "./sizes.ts";
import { isMissing, reasonOf, whyNoFolder } from "./spill_folder.ts";

const FILE_NAME = /^([0-9a-f]{64})\.kv$/;
const FRESH_NAME = /^[0-9a-f]{64}\.[0-9a-f]{32}\.new$/;
/** Age at which a file that was never finished belongs to nobody any more. */
const FRESH_MS = 3_600_000;
/** A file system rounds times by less. */
const MS_APART = 1;
/** Uses that are closer together are not told apart by their time. */
const SPAN_MS = 60_000;
/**
 * After so many blocks, but no more than this part of the cap, the folder is looked at again: other
 * processes may use it too.
 */
const BLOCKS_PER_LOOK = 256;
const CAP_PER_LOOK = 1 / 8;
/** Part of a large folder that is saved before: a look takes as long as it has files. */
const FOLDER_PER_LOOK = 1 / 64;
/** Files that others have used since, of those that a save asks for their time: it is to be short. */
const USED_SINCE = 1024;

/** Room for the prefix folder, in bytes. */
export const DEFAULT_PREFIX_BYTES = 16 * 2 ** 30;

/** A file of the folder, as last seen. */
interface Known {
  readonly size: number;
  usedMs: number;
}

/** The prefix folder. */
export class PrefixFolder {
  readonly #sizes: BlockSizes;
  readonly #digest: Uint8Array;
  readonly #files: FileOps;
  readonly #dir: string;
  readonly #most: number;
  readonly #onWarning: (message: string) => void;
  readonly #record: Uint8Array;
  readonly #known = new Map<string, Known>();
  readonly #bad = new Set<string>();
  #bytes = 0;
  /** Bytes that may be saved before the folder is looked at again. */
  #unseen = 0;
  #warnedOfSaving = false;

  /**
   * @param digest - SHA-256 of the store's fingerprint.
   * @throws {StoreFolderError} If the folder cannot be made or listed.
   */
  constructor(
    sizes: BlockSizes,
    digest: Uint8Array,
    files: FileOps,
    dir: string,
    bytes: number,
    onWarning: (message: string) => void,
  ) {
    this.#sizes = sizes;
    this.#digest = digest;
    this.#files = files;
    this.#dir = dir;
    this.#most = bytes;
    this.#onWarning = onWarning;
    this.#record = new Uint8Array(sizes.record);
    try {
      files.makeFolder(dir);
      this.#look();
    } catch (error) {
      const what = `the folder ${dir} for prefixes`;
      throw new StoreFolderError(what, "--prefix-dir", whyNoFolder(error), error);
    }
  }

  /** Whether there seems to be a block of that name. */
  has(key: string): boolean {
    return this.#known.has(key) && !this.#bad.has(key);
  }

  /**
   * Reads a block.
   *
   * @param into - (layers, part); filled if the block is good.
   * @returns What was kept beside it, or null if there is no such block or it cannot be used.
   */
  load(key: string, into: Uint8Array): { readonly extras: Uint8Array | null } | null {
    if (this.#bad.has(key)) return null;
    const path = this.#pathOf(key);
    try {
      return this.#read(key, path, into);
    } catch (error) {
      this.#forget(key);
      if (isMissing(error)) return null;
      this.#bad.add(key);
      this.#onWarning(`the saved prefix block ${path} is ignored: ${reasonOf(error)}`);
      return null;
    }
  }

  /**
   * Writes a block, whole or not at all.
   *
   * @param bytes - (layers, part).
   * @param depth - As for {@linkcode touch}.
   * @returns Whether it is there now.
   */
  save(key: string, bytes: Uint8Array, extras: Uint8Array | null, depth: number): boolean {
    const { numLayers } = this.#sizes.shape;
    const size = recordOffset(this.#sizes, numLayers) + (extras?.length ?? 0);
    if (size > this.#most) return false;
    const fresh = `${this.#dir}/${key}.${randomBytes(16).toString("hex")}.new`;
    try {
      if (this.#unseen < size) this.#look();
      this.#unseen -= size;
      this.#makeRoom(size - (this.#known.get(key)?.size ?? 0), key);
      const handle = this.#files.create(fresh);
      try {
        this.#write(handle, key, bytes, extras);
        this.#files.sync(handle);
      } finally {
        this.#files.close(handle);
      }
      this.#files.rename(fresh, this.#pathOf(key));
    } catch (error) {
      this.#removeQuietly(fresh);
      if (!this.#warnedOfSaving) {
        this.#warnedOfSaving = true;
        this.#onWarning(`prefix blocks cannot be saved in ${this.#dir}: ${reasonOf(error)}`);
      }
      return false;
    }
    this.#warnedOfSaving = false;
    this.#bad.delete(key);
    this.#note(key, { size, usedMs: Date.now() });
    this.touch(key, depth);
    return true;
  }

  /** Removes a block. @returns Whether it was there. */
  drop(key: string): boolean {
    if (!this.#known.has(key)) return false;
    this.#removeQuietly(this.#pathOf(key));
    this.#forget(key);
    return true;
  }

  /**
   * Notes that a block is used.
   *
   * @param depth - Its place in its prefix: a block is of no use without those before it, so the
   * first ones are to stay longest.
   */
  touch(key: string, depth: number): void {
    const known = this.#known.get(key);
    if (known === undefined) return;
    // Blocks of one prompt are saved one after the other, which takes time: what was used in one
    // span counts as used at once.
    known.usedMs = Math.floor(Date.now() / SPAN_MS) * SPAN_MS - depth;
    try {
      this.#files.touch(this.#pathOf(key), known.usedMs);
    } catch {
      // It only looks older than it is.
    }
  }

  #read(key: string, path: string, into: Uint8Array): { extras: Uint8Array | null } {
    const { numLayers } = this.#sizes.shape;
    const { size, mtimeMs } = this.#files.state(path);
    const least = recordOffset(this.#sizes, numLayers);
    if (size < least) throw new Error(`it has ${size} bytes, not ${least} or more`);
    const handle = this.#files.open(path, false);
    try {
      const header = new Uint8Array(HEADER_BYTES);
      readFully(this.#files, handle, header, 0);
      const length = extrasLength(header);
      if (size !== least + (length ?? 0)) throw new Error("its size is not what its header says");
      let extras: Uint8Array | null = null;
      if (length !== null) {
        extras = new Uint8Array(length);
        readFully(this.#files, handle, extras, least);
      }
      // The one header that is right holds the checksum of the extras as well.
      const right = encodeHeader(this.#sizes, this.#digest, { kind: "saved", name: key, extras });
      if (header.some((byte, index) => byte !== right[index])) {
        throw new Error("it is damaged, of another version, or of another model");
      }
      for (let layer = 0; layer < numLayers; layer++) this.#readRecord(handle, layer, into);
      if (!this.#known.has(key)) this.#note(key, { size, usedMs: mtimeMs });
      return { extras };
    } finally {
      this.#files.close(handle);
    }
  }

  #readRecord(handle: number, layer: number, into: Uint8Array): void {
    const { part, runsPerPart, run } = this.#sizes;
    readFully(this.#files, handle, this.#record, recordOffset(this.#sizes, layer));
    const view = new DataView(this.#record.buffer);
    for (let each = 0; each < runsPerPart; each++) {
      const sum = crc32(this.#record.subarray(each * run, (each + 1) * run));
      if (sum !== view.getUint32(part + each * 4, true)) {
        throw new Error(`wrong checksum in layer ${layer}`);
      }
    }
    into.set(this.#record.subarray(0, part), layer * part);
  }

  #write(handle: number, key: string, bytes: Uint8Array, extras: Uint8Array | null): void {
    const sizes = this.#sizes;
    const header = encodeHeader(sizes, this.#digest, { kind: "saved", name: key, extras });
    writeFully(this.#files, handle, header, 0);
    const checksums = new Uint32Array(sizes.runsPerPart);
    const { numLayers } = sizes.shape;
    for (let layer = 0; layer < numLayers; layer++) {
      const offset = layer * sizes.part;
      checksumPart(sizes, bytes, offset, checksums, 0);
      encodeRecord(sizes, bytes, offset, checksums, 0, this.#record);
      writeFully(this.#files, handle, this.#record, recordOffset(sizes, layer));
    }
    if (extras !== null) {
      writeFully(this.#files, handle, extras, recordOffset(sizes, numLayers));
    }
  }

  /**
   * Removes the files used longest ago until so many more bytes fit. Each file is asked for its time
   * once at most, and no more than {@linkcode USED_SINCE} that are found to have been used since and
   * stay: then the oldest of those goes, though one that was not asked may be older.
   */
  #makeRoom(bytes: number, keep: string): void {
    if (this.#bytes + bytes <= this.#most) return;
    const unasked = new OldestFirst();
    for (const [key, { usedMs }] of this.#known) if (key !== keep) unasked.put(key, usedMs);
    // Others have used these since: their times are right now.
    const asked = new OldestFirst();
    while (this.#bytes + bytes > this.#most) {
      const isKnown = asked.size >= USED_SINCE || asked.oldestMs < unasked.oldestMs;
      const oldest = (isKnown ? asked : unasked).take();
      if (oldest === null) return;
      const path = this.#pathOf(oldest);
      try {
        if (!isKnown) {
          const { size, mtimeMs } = this.#files.state(path);
          if (mtimeMs >= this.#known.get(oldest)!.usedMs + MS_APART) {
            this.#note(oldest, { size, usedMs: mtimeMs });
            asked.put(oldest, mtimeMs);
            continue;
          }
        }
        this.#files.remove(path);
      } catch (error) {
        if (!isMissing(error)) throw error;
      }
      this.#forget(oldest);
    }
  }

  /**
   * Finds out what the folder has. Of files that are known already only the name is looked at, or
   * looking at a large folder would take longer than what was saved since.
   */
  #look(): void {
    const gone = new Set(this.#known.keys());
    for (const entry of this.#files.list(this.#dir)) {
      if (!entry.isFile) continue;
      const key = FILE_NAME.exec(entry.name)?.[1];
      if (key === undefined) this.#clearAway(entry.name);
      else if (!gone.delete(key)) this.#see(key);
    }
    for (const key of gone) this.#forget(key);
    const block = recordOffset(this.#sizes, this.#sizes.shape.numLayers);
    this.#unseen = Math.max(
      Math.min(this.#most * CAP_PER_LOOK, BLOCKS_PER_LOOK * block),
      this.#bytes * FOLDER_PER_LOOK,
    );
  }

  /** Notes a file that was not known. */
  #see(key: string): void {
    try {
      const { size, mtimeMs } = this.#files.state(this.#pathOf(key));
      this.#note(key, { size, usedMs: mtimeMs });
    } catch (error) {
      // Another process may have removed it meanwhile.
      if (!isMissing(error)) throw error;
    }
  }

  /** Removes a file that was never finished, if it is old enough. */
  #clearAway(name: string): void {
    if (!FRESH_NAME.test(name)) return;
    const path = `${this.#dir}/${name}`;
    try {
      if (Date.now() - this.#files.state(path).mtimeMs > FRESH_MS) this.#removeQuietly(path);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
  }

  #note(key: string, known: Known): void {
    this.#forget(key);
    this.#known.set(key, known);
    this.#bytes += known.size;
  }

  #forget(key: string): void {
    this.#bytes -= this.#known.get(key)?.size ?? 0;
    this.#known.delete(key);
  }

  #removeQuietly(path: string): void {
    try {
      this.#files.remove(path);
    } catch {
      // A later start tries again.
    }
  }

  #pathOf(key: string): string {
    return `${this.#dir}/${key}.kv`;
  }
}
