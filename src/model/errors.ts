/** Errors that a model file can cause. @module */

/** Why a model file was refused; stable, for tests and for programs. */
export type ModelFileErrorCode =
  | "not_found"
  | "unknown_format"
  | "truncated"
  | "malformed"
  | "unsupported_architecture"
  | "unsupported_type"
  | "unsupported_tokenizer"
  | "missing_tensor"
  | "shape_mismatch"
  | "bad_config"
  | "bad_template"
  | "checksum_mismatch";

/** A model file, folder, tokenizer or template that cannot be used. The message says what to do. */
export class ModelFileError extends Error {
  override readonly name = "ModelFileError";
  constructor(
    readonly code: ModelFileErrorCode,
    /** File or folder, as the user named it. */
    readonly path: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
