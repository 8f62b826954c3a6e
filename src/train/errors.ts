/** Errors that a training can cause. @module */

/** Why a training could not begin or go on; stable, for tests and for programs. */
export type TrainErrorCode =
  | "no_text"
  | "not_writable"
  | "damaged"
  | "wrong_run"
  | "no_room"
  | "diverged";

/** A training that cannot be done. The message says what to do. */
export class TrainError extends Error {
  override readonly name = "TrainError";
  constructor(readonly code: TrainErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}
