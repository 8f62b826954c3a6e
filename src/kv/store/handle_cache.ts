/** Open files, of which a process may have but so many. @module */
import type { FileOps } from "./file_ops.ts";

/** Keeps the most recently used files open. */
export class HandleCache {
  readonly #files: FileOps;
  readonly #most: number;
  /** By path, the least recently used first. */
  readonly #handles = new Map<string, number>();

  constructor(files: FileOps, most = 64) {
    this.#files = files;
    this.#most = most;
  }

  /** Creates a file. */
  create(path: string): number {
    return this.#keep(path, this.#files.create(path));
  }

  /** The handle of a file. `check` is called when the file had to be opened. */
  use(path: string, check: (handle: number) => void): number {
    const known = this.#handles.get(path);
    if (known !== undefined) {
      this.#handles.delete(path);
      this.#handles.set(path, known);
      return known;
    }
    const handle = this.#files.open(path, true);
    try {
      check(handle);
    } catch (error) {
      this.#close(handle);
      throw error;
    }
    return this.#keep(path, handle);
  }

  /** Closes a file, if it is open. */
  drop(path: string): void {
    const handle = this.#handles.get(path);
    if (handle === undefined) return;
    this.#handles.delete(path);
    this.#close(handle);
  }

  #keep(path: string, handle: number): number {
    this.#handles.set(path, handle);
    if (this.#handles.size > this.#most) {
      for (const oldest of this.#handles.keys()) {
        this.drop(oldest);
        break;
      }
    }
    return handle;
  }

  #close(handle: number): void {
    try {
      this.#files.close(handle);
    } catch {
      // Whatever it was that failed: nothing is read or written through it any more.
    }
  }
}
