/** Tokenizers of the golden files. @module */

import { openModel } from "../../src/model/open.ts";
import type { TokenizerSource } from "../../src/model/types.ts";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import type { Tokenizer } from "../../src/tokenizer/types.ts";
import { DEFAULT_MODEL } from "../../src/assets.ts";

export const DATA = "tests/data/tokenizer";
export const DEFAULT_PATH = DEFAULT_MODEL.path;

/** Metadata of a GGUF tokenizer, as the loader hands it out. */
export type GgufSource = Extract<TokenizerSource, { kind: "gguf" }>;

export async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await Deno.readTextFile(path)) as T;
}

/** Tokenizer source and vocabulary of a model file or folder. */
export async function openSource(
  path: string,
): Promise<{ source: TokenizerSource; vocabSize: number }> {
  const model = await openModel(path);
  try {
    if (model.tokenizer === undefined) throw new Error(`${path} has no tokenizer`);
    return { source: model.tokenizer, vocabSize: model.config.vocabSize };
  } finally {
    model.close();
  }
}

export async function openTokenizer(path: string): Promise<Tokenizer> {
  const { source, vocabSize } = await openSource(path);
  return loadTokenizer(source, path, vocabSize);
}

/** Text to ids as plain text, without BOS. */
export function plainIds(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text, { parseSpecial: false, addBos: false });
}

/** Text to ids with special tokens parsed, without BOS. */
export function specialIds(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text, { parseSpecial: true, addBos: false });
}
