/** The text side of a model: what needs neither a device nor its weights. @module */
import { openModel } from "../model/open.ts";
import type { ServedModel } from "../server/served_model.ts";
import { createChatTemplate } from "../tokenizer/chat_template.ts";
import { loadTokenizer } from "../tokenizer/load.ts";

/** Text to ids and ids to text for one model. */
export interface TextSide extends Pick<ServedModel, "tokenizer" | "template"> {
  /** The model's own name. */
  readonly name: string;
}

/** Opens a text side; tests put a fake in its place. */
export type OpenTextSide = (path: string) => Promise<TextSide>;

/**
 * Opens the text side of a model: no device, no weights.
 *
 * @throws {ModelFileError} If the model cannot be read.
 */
export const openTextSide: OpenTextSide = async (path) => {
  const source = await openModel(path);
  try {
    const { name, vocabSize } = source.config;
    if (source.tokenizer === undefined) return { name };
    const tokenizer = loadTokenizer(source.tokenizer, path, vocabSize);
    return { name, tokenizer, template: createChatTemplate(source.tokenizer, tokenizer) };
  } finally {
    source.close();
  }
};
