/** Puts a calibration on disk, whole or not at all. @module */
import { writeWhole } from "../../whole_file.ts";
import { CalibrationError } from "./errors.ts";
import { type Calibration, encodeCalibration } from "./file.ts";

/**
 * Finds out whether a file could be written, before the work that it is for.
 *
 * @throws {CalibrationError} `not_writable`.
 */
export function checkWritable(path: string): void {
  attempt(path, () => {
    if (isFolder(path)) throw new Error("it is a folder");
    const part = `${path}.part`;
    Deno.writeFileSync(part, new Uint8Array(0));
    Deno.removeSync(part);
  });
}

/**
 * Writes a calibration; what was there before stays until the new one is complete.
 *
 * @throws {CalibrationError} `not_writable`.
 */
export function writeCalibration(path: string, calibration: Calibration): void {
  attempt(path, () => writeWhole(path, encodeCalibration(calibration)));
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

function attempt(path: string, write: () => void): void {
  try {
    write();
  } catch (error) {
    let why = error instanceof Error ? error.message : String(error);
    if (error instanceof Deno.errors.NotFound) why = "its folder does not exist";
    if (error instanceof Deno.errors.NotCapable) {
      why = "the program was not given the right to write it: add --allow-write";
    }
    throw new CalibrationError("not_writable", `cannot write ${path}: ${why}`, { cause: error });
  }
}
