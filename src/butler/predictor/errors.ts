/** Errors that a predictor can cause. @module */

/** Why a predictor was refused; stable, for tests and for programs. */
export type PredictorErrorCode =
  | "not_found"
  | "damaged"
  | "wrong_format"
  | "wrong_model"
  | "too_large"
  | "not_writable";

/** A predictor that cannot be read or written. The message says what to do. */
export class PredictorError extends Error {
  override readonly name = "PredictorError";
  constructor(readonly code: PredictorErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}
