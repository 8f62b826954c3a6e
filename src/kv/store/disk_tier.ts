/** Blocks in files, for as long as their sequences live. @module */
import type { Block } from "./block.ts";
import {
  type BlockFile,
  checksumPart,
  encodeHeader,
  encodeRecord,
  findDamage,
  readFully,
  recordOffset,
  writeFully,
} from "./block_file.ts";
import type { TierTraffic } from "../moves.ts";
import { StoreFolderError, StoreReadError } from "./errors.ts";
import type { FileOps } from "./file_ops.ts";
import { HandleCache } from "./handle_cache.ts";
import { type BlockSizes, HEADER_BYTES } from "./sizes.ts";
import {
  randomName,
  reasonOf,
  reasonWithoutPath,
  SpillFolder,
  whyNoFolder,
} from "./spill_folder.ts";

/** Files of one block each, under a cap. */
export class DiskTier implements Disposable {
  /** Parts that were written and runs that were read, without what belongs to the files. */
  readonly traffic: TierTraffic = { came: 0, left: 0 };
  readonly #sizes: BlockSizes;
  readonly #oneRun: BlockSizes;
  readonly #digest: Uint8Array;
  readonly #files: FileOps;
  readonly #folder: SpillFolder;
  readonly #handles: HandleCache;
  readonly #most: number;
  readonly #record: Uint8Array;
  #numFiles = 0;
  /** Files that there were when the system refused to write; null while it writes. */
  #refusedAt: number | null = null;
  /** What the system last said when it refused. */
  lastRefusal: string | null = null;

  /**
   * @param digest - SHA-256 of the store's fingerprint.
   * @throws {StoreFolderError} If the folder cannot be used.
   */
  constructor(
    sizes: BlockSizes,
    digest: Uint8Array,
    files: FileOps,
    options: { readonly dir: string; readonly bytes: number },
    onWarning: (message: string) => void,
  ) {
    this.#sizes = sizes;
    this.#oneRun = { ...sizes, runsPerPart: 1 };
    this.#digest = digest;
    this.#files = files;
    this.#most = Math.max(0, Math.floor(options.bytes / sizes.file));
    this.#record = new Uint8Array(sizes.record);
    this.#handles = new HandleCache(files);
    try {
      this.#folder = new SpillFolder(files, options.dir, onWarning);
    } catch (error) {
      const what = `the folder ${options.dir} for spilled blocks`;
      throw new StoreFolderError(what, "--kv-disk", whyNoFolder(error), error);
    }
  }

  /** Files that take room; also those that could not be removed yet. */
  get used(): number {
    return this.#numFiles + this.#folder.numLeftovers;
  }

  /** Files that may be there: what the cap allows, or what the system took before it refused. */
  get capacity(): number {
    return this.#refusedAt === null ? this.#most : Math.min(this.#most, this.#refusedAt);
  }

  /** Believes again that the system has room, since some was given back. */
  retry(): void {
    this.#refusedAt = null;
    this.lastRefusal = null;
  }

  /**
   * A file that holds nothing yet; null if there is no room, or the system refuses (see
   * {@linkcode lastRefusal}).
   */
  take(): BlockFile | null {
    if (this.used >= this.capacity) return null;
    const { shape, runsPerPart } = this.#sizes;
    const name = randomName();
    const path = this.#folder.pathOf(name);
    const file: BlockFile = {
      path,
      header: encodeHeader(this.#sizes, this.#digest, { kind: "spilled", name, extras: null }),
      slots: Uint16Array.from({ length: shape.numLayers }, (_, layer) => layer),
      spare: shape.numLayers,
      checksums: new Uint32Array(shape.numLayers * runsPerPart),
    };
    this.#numFiles++;
    const done = this.#attempt(() => {
      writeFully(this.#files, this.#handles.create(path), file.header, 0);
    });
    if (done) return file;
    this.discard(file);
    return null;
  }

  /** Removes a file. */
  give(file: BlockFile): void {
    this.#numFiles--;
    this.#handles.drop(file.path);
    this.#folder.remove(file.path);
  }

  /** Removes a file that could not be written: so many there may be, and no more for now. */
  discard(file: BlockFile): void {
    this.give(file);
    this.#refusedAt = this.used;
  }

  /** Writes the parts that a block in host memory has; false if the system refuses. */
  writeBlock(file: BlockFile, block: Block, bytes: Uint8Array): boolean {
    return this.#attempt(() => {
      for (let layer = 0; layer < block.rows.length; layer++) {
        if (block.rows[layer]! === 0) continue;
        this.#write(file, layer, layer, bytes, layer * this.#sizes.part);
      }
    });
  }

  /**
   * Writes a layer's part, which may have been written before; false if the system refuses, and
   * what was there is there still.
   */
  writePart(file: BlockFile, layer: number, bytes: Uint8Array, offset: number): boolean {
    const old = file.checksums.slice(
      layer * this.#sizes.runsPerPart,
      (layer + 1) * this.#sizes.runsPerPart,
    );
    const done = this.#attempt(() => this.#write(file, layer, file.spare, bytes, offset));
    if (!done) {
      file.checksums.set(old, layer * this.#sizes.runsPerPart);
      return false;
    }
    [file.spare, file.slots[layer]] = [file.slots[layer]!, file.spare];
    return true;
  }

  /** @throws {StoreReadError} If it does not read as it was written. */
  readPart(file: BlockFile, layer: number, out: Uint8Array, outOffset: number): void {
    const { part, runsPerPart } = this.#sizes;
    const start = recordOffset(this.#sizes, file.slots[layer]!);
    this.#read(file, out.subarray(outOffset, outOffset + part), start);
    const damage = findDamage(
      this.#sizes,
      out,
      outOffset,
      file.checksums,
      layer * runsPerPart,
    );
    if (damage >= 0) throw this.#unreadable(file, `wrong checksum in layer ${layer}`);
  }

  /**
   * Reads the keys of one head and its values behind them, (2, 32, D), into `out`.
   *
   * @throws {StoreReadError} If they do not read as they were written.
   */
  readHead(file: BlockFile, layer: number, head: number, out: Uint8Array): void {
    const { run, runsPerPart, shape } = this.#sizes;
    const start = recordOffset(this.#sizes, file.slots[layer]!);
    const keys = out.subarray(0, run);
    const values = out.subarray(run, 2 * run);
    this.#read(file, keys, start + head * run);
    this.#read(file, values, start + (shape.numKvHeads + head) * run);
    const first = layer * runsPerPart + head;
    if (
      findDamage(this.#oneRun, keys, 0, file.checksums, first) >= 0 ||
      findDamage(this.#oneRun, values, 0, file.checksums, first + shape.numKvHeads) >= 0
    ) {
      throw this.#unreadable(file, `wrong checksum in layer ${layer}, head ${head}`);
    }
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }

  #write(
    file: BlockFile,
    layer: number,
    slot: number,
    bytes: Uint8Array,
    offset: number,
  ): void {
    const at = layer * this.#sizes.runsPerPart;
    checksumPart(this.#sizes, bytes, offset, file.checksums, at);
    encodeRecord(this.#sizes, bytes, offset, file.checksums, at, this.#record);
    writeFully(this.#files, this.#open(file), this.#record, recordOffset(this.#sizes, slot));
    this.traffic.came += this.#sizes.part;
  }

  #read(file: BlockFile, out: Uint8Array, position: number): void {
    try {
      readFully(this.#files, this.#open(file), out, position);
      this.traffic.left += out.length;
    } catch (error) {
      if (error instanceof StoreReadError) throw error;
      throw this.#unreadable(file, reasonOf(error), error);
    }
  }

  #open(file: BlockFile): number {
    return this.#handles.use(file.path, (handle) => {
      const header = new Uint8Array(HEADER_BYTES);
      readFully(this.#files, handle, header, 0);
      if (header.some((byte, index) => byte !== file.header[index])) {
        throw this.#unreadable(file, "it is another file");
      }
    });
  }

  #attempt(action: () => void): boolean {
    try {
      action();
      return true;
    } catch (error) {
      this.lastRefusal = reasonWithoutPath(error);
      this.#refusedAt = this.used;
      return false;
    }
  }

  #unreadable(file: BlockFile, reason: string, cause?: unknown): StoreReadError {
    return new StoreReadError(
      `a block of the KV cache cannot be read back from ${file.path}: ${reason}`,
      { cause },
    );
  }
}
