/** The tokenizer of a model, wherever it comes from. @module */

import { ModelFileError } from "../model/errors.ts";
import type { TokenizerSource } from "../model/types.ts";
import { ggufTokenizer } from "./gguf.ts";
import { huggingFaceTokenizer } from "./huggingface.ts";
import type { Tokenizer } from "./types.ts";

/** Letters, digits, marks, blanks and characters of one to four bytes. */
const PROBE = "It's a probe, 12 34.5!\n\n\t  caf\u00e9 \u4f60\u597d \u{1f642}<s></s>";

/**
 * Builds the tokenizer of a model.
 *
 * @param path File or folder that errors name.
 * @param vocabSize Rows of the model's embedding. Ids between the tokenizer's own tokens and this
 *   (a padded vocabulary) are valid and stand for no text.
 * @throws {ModelFileError} `unsupported_tokenizer` or `malformed`.
 */
export function loadTokenizer(
  source: TokenizerSource,
  path: string,
  vocabSize: number,
): Tokenizer {
  try {
    const tokenizer = source.kind === "gguf"
      ? ggufTokenizer(source.metadata, path, vocabSize)
      : huggingFaceTokenizer(source, path, vocabSize);
    // Some settings are looked at only when there is text: what they break has to show now, and not
    // in the first request.
    tokenizer.decode(tokenizer.encode(PROBE, { parseSpecial: true, addBos: true }));
    return tokenizer;
  } catch (error) {
    if (error instanceof ModelFileError) throw error;
    // A file that is wrong in a way nobody thought of is still only a wrong file.
    throw new ModelFileError(
      "malformed",
      path,
      `${path}: the tokenizer cannot be built: ${
        error instanceof Error ? error.message : String(error)
      }`,
      { cause: error },
    );
  }
}
