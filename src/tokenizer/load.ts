/** The tokenizer of a model, wherever it comes from. @module */

import { ModelFileError } from "../model/errors.ts";
import type { TokenizerSource } from "../model/types.ts";
import { ggufTokenizer } from "./gguf.ts";
import { huggingFaceTokenizer } from "./huggingface.ts";
import type { Tokenizer } from "./types.ts";

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
    return source.kind === "gguf"
      ? ggufTokenizer(source.metadata, path, vocabSize)
      : huggingFaceTokenizer(source, path, vocabSize);
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
