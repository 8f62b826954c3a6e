/** Puts a predictor on disk, whole or not at all. @module */
import { writeWhole } from "../../whole_file.ts";
import { PredictorError } from "./errors.ts";
import { encodePredictor, type StoredPredictor } from "./file.ts";

/**
 * Writes a predictor; what was there before stays until the new one is complete.
 *
 * @throws {PredictorError} `not_writable`.
 */
export function writePredictor(path: string, stored: StoredPredictor): void {
  try {
    writeWhole(path, encodePredictor(stored));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new PredictorError("not_writable", `cannot write ${path}: ${why}`, { cause: error });
  }
}
