/** Opening models, whatever they are stored as. @module */

import { ModelFileError } from "./errors.ts";
import { openGguf } from "./gguf.ts";
import { openHuggingFace } from "./huggingface.ts";
import { asNotFound } from "./model_file.ts";
import type { ModelSource } from "./types.ts";

/**
 * Opens a `.gguf` file or a Hugging Face folder. Everything but the weights themselves is read and
 * checked here: configuration, tensor table, presence and shape of every tensor. Close the result
 * when its tensors have been read.
 *
 * @throws {ModelFileError} If there is no such model, or if it is damaged or not supported.
 */
export async function openModel(path: string): Promise<ModelSource> {
  let kind: Deno.FileInfo;
  try {
    kind = await Deno.stat(path);
  } catch (error) {
    throw asNotFound(error, path || "(empty path)");
  }
  if (kind.isDirectory) return openHuggingFace(path);
  if (path.endsWith(".safetensors")) {
    throw new ModelFileError(
      "unknown_format",
      path,
      `${path} has weights only: give the folder that also holds config.json`,
    );
  }
  return openGguf(path);
}
