/** Errors that a calibration can cause. @module */

/** Why a calibration was refused or failed; stable, for tests and for programs. */
export type CalibrationErrorCode =
  | "not_found"
  | "damaged"
  | "wrong_format"
  | "wrong_model"
  | "bad_keys"
  | "not_writable";

/** A calibration that cannot be read, made or written. The message says what to do. */
export class CalibrationError extends Error {
  override readonly name = "CalibrationError";
  constructor(readonly code: CalibrationErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}
