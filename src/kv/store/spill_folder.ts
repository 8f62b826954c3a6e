/**
 * The folder of this process for spilled blocks, and clearing away those of processes that died.
 *
 * A folder belongs to a living process while the marker file in it is locked. Process ids would
 * not do: they are used again, and differ between containers that share a disk.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import type { FileOps } from "./file_ops.ts";
import { readFully, writeFully } from "./block_file.ts";

const FOLDER_NAME = /^tokenbutler-\d+-[0-9a-f]{32}$/;
const FILE_NAME = /^[0-9a-f]{64}\.kv$/;
const MARKER = "tokenbutler.marker";
const MARKER_TEXT = new TextEncoder().encode("TokenButler: spilled blocks of a KV cache.\n");

/** A name that nobody can guess: 64 hexadecimal digits. */
export function randomName(): string {
  return randomBytes(32).toString("hex");
}

/** A folder with files of unguessable names, gone when it is disposed of. */
export class SpillFolder implements Disposable {
  readonly #files: FileOps;
  readonly #path: string;
  readonly #lock: Disposable;
  readonly #onWarning: (message: string) => void;
  /** Files that could not be removed; tried again now and then. */
  #leftovers: string[] = [];
  #warned = false;

  /** @throws {Error} If the folder cannot be made. */
  constructor(files: FileOps, parent: string, onWarning: (message: string) => void) {
    this.#files = files;
    this.#onWarning = onWarning;
    files.makeFolder(parent);
    clearDeadFolders(files, parent);
    this.#path = `${parent}/tokenbutler-${Deno.pid}-${randomBytes(16).toString("hex")}`;
    files.makeFolder(this.#path);
    // Nobody may find a marker that is not locked yet.
    const fresh = `${this.#path}/${MARKER}.new`;
    const handle = files.create(fresh);
    try {
      writeFully(files, handle, MARKER_TEXT, 0);
    } finally {
      files.close(handle);
    }
    const lock = files.lock(fresh);
    if (lock === null) throw new Error(`${fresh} is locked by another process`);
    this.#lock = lock;
    files.rename(fresh, `${this.#path}/${MARKER}`);
  }

  /** Files that should be gone and are not. */
  get numLeftovers(): number {
    return this.#leftovers.length;
  }

  pathOf(name: string): string {
    return `${this.#path}/${name}.kv`;
  }

  /** Removes a file, now or, where the system refuses, later. */
  remove(path: string): void {
    const again = this.#leftovers;
    this.#leftovers = [];
    for (const each of [...again, path]) {
      const failure = tryRemove(this.#files, each);
      if (failure === null) continue;
      this.#leftovers.push(each);
      if (this.#warned) continue;
      this.#warned = true;
      this.#onWarning(`${each} cannot be removed (${failure}); it is tried again later`);
    }
  }

  [Symbol.dispose](): void {
    for (const path of this.#leftovers) tryRemove(this.#files, path);
    this.#leftovers = [];
    tryRemove(this.#files, `${this.#path}/${MARKER}`);
    this.#lock[Symbol.dispose]();
    try {
      this.#files.removeFolder(this.#path);
    } catch {
      // Not empty: the next start of the program clears it away.
    }
  }
}

/** Removes what processes that are gone have left in `parent`; nothing that is not ours. */
function clearDeadFolders(files: FileOps, parent: string): void {
  for (const entry of files.list(parent)) {
    if (!entry.isDirectory || !FOLDER_NAME.test(entry.name)) continue;
    try {
      clearFolder(files, `${parent}/${entry.name}`);
    } catch {
      // Another user's, or being cleared by another process: not needed for anything.
    }
  }
}

function clearFolder(files: FileOps, path: string): void {
  const marker = `${path}/${MARKER}`;
  if (!hasMarkerText(files, marker)) return;
  const lock = files.lock(marker);
  if (lock === null) return;
  try {
    for (const entry of files.list(path)) {
      if (entry.isFile && FILE_NAME.test(entry.name)) files.remove(`${path}/${entry.name}`);
    }
    files.remove(marker);
  } finally {
    lock[Symbol.dispose]();
  }
  files.removeFolder(path);
}

function hasMarkerText(files: FileOps, marker: string): boolean {
  const text = new Uint8Array(MARKER_TEXT.length);
  const handle = files.open(marker, false);
  try {
    readFully(files, handle, text, 0);
  } finally {
    files.close(handle);
  }
  return text.every((byte, index) => byte === MARKER_TEXT[index]);
}

/** Null if the file is gone, else why not. */
function tryRemove(files: FileOps, path: string): string | null {
  try {
    files.remove(path);
    return null;
  } catch (error) {
    return isMissing(error) ? null : reasonOf(error);
  }
}

/** Whether an error says that there is no such file. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

/** What an error says. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Why a folder that a flag names cannot be used. */
export function whyNoFolder(error: unknown): string {
  // Deno's own advice would be to allow everything.
  if (error instanceof Deno.errors.NotCapable) {
    return "the program may use ordinary folders only, not those of devices or of the system";
  }
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "EEXIST" || code === "ENOTDIR") return "there is a file in its place";
  return reasonOf(error);
}

/** The text of {@linkcode reasonOf} without the path that the system puts at its end: clients get to read it. */
export function reasonWithoutPath(error: unknown): string {
  return reasonOf(error)
    .replace(/[,:] \w+ (['"]).*\1$/s, "")
    .replace(/(['"])[^'"]*[/\\][^'"]*\1/g, "it");
}
