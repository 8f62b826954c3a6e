/** Files that a command writes when its work is done. @module */
import { checkWritable } from "../butler/calibration/write.ts";
import { CommandError, MisfitError } from "./command.ts";

/**
 * Finds out, before the work, whether what comes of it can be written.
 *
 * @throws {MisfitError} If it cannot.
 * @throws {CommandError} If it cannot now: the disk is full.
 */
export function checkOutputs(
  files: { readonly out?: string | null; readonly svg?: string | null },
): void {
  for (const [flag, path] of Object.entries(files)) {
    try {
      if (path !== null && path !== undefined) checkWritable(path);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const { code } = (error instanceof Error ? error.cause ?? {} : {}) as { code?: unknown };
      const passes = code === "ENOSPC" || code === "EDQUOT";
      throw new (passes ? CommandError : MisfitError)(`--${flag}: ${why}`);
    }
  }
}

/** Writes a picture. @throws {CommandError} If it cannot. */
export function writePicture(path: string, svg: string): void {
  try {
    Deno.writeTextFileSync(path, svg);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CommandError(`--svg: cannot write ${path}: ${why}`);
  }
}
