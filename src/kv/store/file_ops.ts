/**
 * The few file operations that the store needs, synchronous and replaceable: tests put faults here.
 *
 * @module
 */
import * as fs from "node:fs";

/** An entry of a folder. Symbolic links are neither. */
export interface FileEntry {
  readonly name: string;
  readonly isFile: boolean;
  readonly isDirectory: boolean;
}

/** Size and age of a file. */
export interface FileState {
  readonly size: number;
  readonly mtimeMs: number;
}

/** File operations; each throws what the system says. Handles are numbers. */
export interface FileOps {
  /** Creates a file that must not exist, for reading and writing, for this user alone. */
  create(path: string): number;
  /** Opens a file that exists. */
  open(path: string, writable: boolean): number;
  /** Reads up to out.length bytes; returns how many, 0 at the end of the file. */
  read(handle: number, out: Uint8Array, position: number): number;
  /** Writes up to data.length bytes; returns how many. */
  write(handle: number, data: Uint8Array, position: number): number;
  /** Returns when the file's bytes are on the medium. */
  sync(handle: number): void;
  close(handle: number): void;
  rename(from: string, to: string): void;
  remove(path: string): void;
  /** Makes a folder, and those above it, for this user alone. */
  makeFolder(path: string): void;
  /** Removes an empty folder. */
  removeFolder(path: string): void;
  list(path: string): FileEntry[];
  state(path: string): FileState;
  /** Sets the time of a file, in milliseconds since 1970. */
  touch(path: string, timeMs: number): void;
  /**
   * Locks a file for as long as the process lives or until the lock is disposed of; null if another
   * handle has it.
   */
  lock(path: string): Disposable | null;
}

/** The file system. */
export const systemFiles: FileOps = {
  create: (path) => fs.openSync(path, "wx+", 0o600),
  open: (path, writable) => fs.openSync(path, writable ? "r+" : "r"),
  read: (handle, out, position) => fs.readSync(handle, out, 0, out.length, position),
  write: (handle, data, position) => fs.writeSync(handle, data, 0, data.length, position),
  sync: (handle) => fs.fsyncSync(handle),
  close: (handle) => fs.closeSync(handle),
  rename: (from, to) => fs.renameSync(from, to),
  remove: (path) => fs.unlinkSync(path),
  makeFolder: (path) => void fs.mkdirSync(path, { recursive: true, mode: 0o700 }),
  removeFolder: (path) => fs.rmdirSync(path),
  list: (path) =>
    fs.readdirSync(path, { withFileTypes: true }).map((entry) => ({
      name: entry.name,
      isFile: entry.isFile(),
      isDirectory: entry.isDirectory(),
    })),
  state: (path) => {
    const { size, mtimeMs } = fs.statSync(path);
    return { size, mtimeMs };
  },
  touch: (path, timeMs) => fs.utimesSync(path, timeMs / 1000, timeMs / 1000),
  lock: (path) => {
    const file = Deno.openSync(path, { read: true, write: true });
    let locked = false;
    try {
      locked = file.tryLockSync(true);
    } finally {
      if (!locked) file.close();
    }
    return locked ? { [Symbol.dispose]: () => file.close() } : null;
  },
};
