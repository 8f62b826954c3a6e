/** Pictures that commands draw. @module */
import { CommandError } from "./command.ts";

/** Writes a picture. @throws {CommandError} If it cannot. */
export function writePicture(path: string, svg: string): void {
  try {
    Deno.writeTextFileSync(path, svg);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CommandError(`--svg: cannot write ${path}: ${why}`);
  }
}
