/**
 * A file system in memory for tests of the store, with faults to order.
 *
 * @module
 */
import type { FileEntry, FileOps, FileState } from "../../../src/kv/store/file_ops.ts";

/** What goes wrong, until it is switched off. */
export interface Faults {
  /** Bytes that can still be written; then the disk is full. */
  room: number;
  /** At most so many bytes a call are read or written. */
  most: number;
  /** Reads end early. */
  shortRead: boolean;
  /** Every read has one bit wrong. */
  flip: boolean;
  /** These operations throw. */
  failing: Set<keyof FileOps>;
}

interface Content {
  bytes: Uint8Array;
  mtimeMs: number;
}

/** Files and folders by path. */
export class MemoryFiles implements FileOps {
  readonly contents = new Map<string, Content>();
  readonly folders = new Set<string>();
  readonly locks = new Set<Content>();
  readonly faults: Faults = noFaults();
  readonly #open = new Map<number, Content>();
  #nextHandle = 3;

  get numOpen(): number {
    return this.#open.size;
  }

  heal(): void {
    Object.assign(this.faults, noFaults());
  }

  create(path: string): number {
    this.#fault("create");
    if (this.contents.has(path)) throw systemError("EEXIST", path);
    if (!this.folders.has(parentOf(path))) throw systemError("ENOENT", path);
    const content = { bytes: new Uint8Array(0), mtimeMs: Date.now() };
    this.contents.set(path, content);
    return this.#handle(content);
  }

  open(path: string): number {
    this.#fault("open");
    return this.#handle(this.#content(path));
  }

  read(handle: number, out: Uint8Array, position: number): number {
    this.#fault("read");
    const { bytes } = this.#open.get(handle)!;
    const end = Math.min(position + out.length, position + this.faults.most, bytes.length);
    const piece = bytes.subarray(position, this.faults.shortRead ? end - 1 : end);
    out.set(piece);
    if (this.faults.flip && piece.length > 0) out[piece.length >> 1]! ^= 0x10;
    return piece.length;
  }

  write(handle: number, data: Uint8Array, position: number): number {
    this.#fault("write");
    const content = this.#open.get(handle)!;
    const count = Math.min(data.length, this.faults.most, this.faults.room);
    if (count === 0 && data.length > 0) throw systemError("ENOSPC", "");
    this.faults.room -= count;
    if (content.bytes.length < position + count) {
      const longer = new Uint8Array(position + count);
      longer.set(content.bytes);
      content.bytes = longer;
    }
    content.bytes.set(data.subarray(0, count), position);
    return count;
  }

  sync(): void {
    this.#fault("sync");
  }

  close(handle: number): void {
    if (!this.#open.delete(handle)) throw systemError("EBADF", String(handle));
    this.#fault("close");
  }

  rename(from: string, to: string): void {
    this.#fault("rename");
    const content = this.#content(from);
    this.contents.delete(from);
    this.contents.set(to, content);
  }

  remove(path: string): void {
    this.#fault("remove");
    this.#content(path);
    this.contents.delete(path);
  }

  makeFolder(path: string): void {
    this.#fault("makeFolder");
    this.folders.add(path);
  }

  removeFolder(path: string): void {
    this.#fault("removeFolder");
    if (this.list(path).length > 0) throw systemError("ENOTEMPTY", path);
    this.folders.delete(path);
  }

  list(path: string): FileEntry[] {
    this.#fault("list");
    if (!this.folders.has(path)) throw systemError("ENOENT", path);
    const entry = (isFile: boolean) => (each: string) => ({
      name: each.slice(path.length + 1),
      isFile,
      isDirectory: !isFile,
    });
    const inside = (each: string) => parentOf(each) === path;
    return [
      ...[...this.contents.keys()].filter(inside).map(entry(true)),
      ...[...this.folders].filter(inside).map(entry(false)),
    ];
  }

  state(path: string): FileState {
    this.#fault("state");
    const { bytes, mtimeMs } = this.#content(path);
    return { size: bytes.length, mtimeMs };
  }

  touch(path: string, timeMs: number): void {
    this.#fault("touch");
    this.#content(path).mtimeMs = timeMs;
  }

  lock(path: string): Disposable | null {
    this.#fault("lock");
    const content = this.#content(path);
    if (this.locks.has(content)) return null;
    this.locks.add(content);
    return { [Symbol.dispose]: () => void this.locks.delete(content) };
  }

  #handle(content: Content): number {
    this.#open.set(this.#nextHandle, content);
    return this.#nextHandle++;
  }

  #content(path: string): Content {
    const content = this.contents.get(path);
    if (content === undefined) throw systemError("ENOENT", path);
    return content;
  }

  #fault(operation: keyof FileOps): void {
    if (this.faults.failing.has(operation)) throw systemError("EIO", operation);
  }
}

function noFaults(): Faults {
  return { room: Infinity, most: Infinity, shortRead: false, flip: false, failing: new Set() };
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}

function systemError(code: string, subject: string): Error {
  return Object.assign(new Error(`${code}: ${subject}`), { code });
}
