/** A file of a model, opened for positional reads. @module */

import { ModelFileError } from "./errors.ts";

/**
 * One open file. Reads are positional: a seek and a read without an await in between, so that
 * readers that run at the same time cannot move each other's position. They block, which suits
 * the worker that loads weights; whoever reads much elsewhere yields between pieces.
 */
export class ModelFile {
  #file: Deno.FsFile | undefined;

  private constructor(file: Deno.FsFile, readonly path: string, readonly size: number) {
    this.#file = file;
  }

  /**
   * Opens a regular file.
   *
   * @throws {ModelFileError} `not_found` if the file is missing, unreadable or not a regular file.
   */
  static open(path: string): ModelFile {
    let file: Deno.FsFile | undefined;
    try {
      // The kind is looked at before opening: opening a pipe would wait for its other end.
      const kind = Deno.statSync(path);
      if (!kind.isFile) {
        throw new ModelFileError("not_found", path, `${path} is not a regular file`);
      }
      file = Deno.openSync(path, { read: true });
      return new ModelFile(file, path, file.statSync().size);
    } catch (error) {
      file?.close();
      throw asNotFound(error, path);
    }
  }

  /** Reads up to `target.length` bytes from `position`; fewer only at the end of the file. */
  readSome(target: Uint8Array, position: number): number {
    const file = this.#handle();
    let done = 0;
    try {
      file.seekSync(position, Deno.SeekMode.Start);
      while (done < target.length) {
        const n = file.readSync(target.subarray(done));
        if (n === null || n === 0) break;
        done += n;
      }
    } catch (error) {
      throw new ModelFileError(
        "truncated",
        this.path,
        `${this.path} cannot be read at byte ${position}: ${messageOf(error)}`,
        { cause: error },
      );
    }
    return done;
  }

  /**
   * Fills `target` with the bytes from `position` on.
   *
   * @throws {ModelFileError} `truncated` if the file ends before that.
   */
  readFully(target: Uint8Array, position: number): void {
    const n = this.readSome(target, position);
    if (n < target.length) throw endsEarly(this.path, position + n);
  }

  close(): void {
    this.#file?.close();
    this.#file = undefined;
  }

  #handle(): Deno.FsFile {
    if (!this.#file) throw new Error(`${this.path} was read after the model was closed`);
    return this.#file;
  }
}

/** Error for a file that is shorter than what it describes. */
export function endsEarly(path: string, position: number): ModelFileError {
  return new ModelFileError(
    "truncated",
    path,
    `${path} ends early, at byte ${position}: download or copy it again`,
  );
}

/** Text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Turns an error of the file system into one that says what to do. */
export function asNotFound(error: unknown, path: string): ModelFileError {
  if (error instanceof ModelFileError) return error;
  let advice = messageOf(error);
  if (error instanceof Deno.errors.NotFound) {
    advice = "there is no such file or folder: check the path given with --model";
  } else if (error instanceof Deno.errors.NotCapable) {
    advice = "the program was not given the right to read it: add it to --allow-read";
  } else if (error instanceof Deno.errors.PermissionDenied) {
    advice = "the file system denies access: check its owner and mode";
  }
  return new ModelFileError("not_found", path, `${path}: ${advice}`, { cause: error });
}
