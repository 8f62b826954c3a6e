/** The text side of a model: what needs neither a device nor its weights. @module */
import { openModel } from "../model/open.ts";
import type { ServedModel } from "../server/served_model.ts";
import { BackgroundEncoder } from "../tokenizer/background_encoder.ts";
import { createChatTemplate } from "../tokenizer/chat_template.ts";
import { loadTokenizer } from "../tokenizer/load.ts";
import { findChatTemplate } from "../tokenizer/template_source.ts";

/** Text to ids and ids to text for one model. */
export interface TextSide
  extends Pick<ServedModel, "tokenizer" | "endIds" | "template" | "encoder" | "fileName"> {
  /** The model's own name. */
  readonly name: string;
}

/**
 * `chat` wants the chat template too, which runs in a worker; `serve` also a worker that tokenizes
 * what others should not wait for. Close both.
 */
export type TextUse = "text" | "chat" | "serve";

/** Opens a text side; tests put a fake in its place. */
export type OpenTextSide = (path: string, use: TextUse) => Promise<TextSide>;

/**
 * Opens the text side of a model: no device, no weights.
 *
 * @throws {ModelFileError} If the model, its tokenizer or its template cannot be used.
 */
export const openTextSide: OpenTextSide = async (path, use) => {
  const source = await openModel(path);
  try {
    const { name, vocabSize } = source.config;
    const fileName = path.replace(/[/\\]+$/, "").replace(/^.*[/\\]/, "");
    const known = { name, fileName };
    if (source.tokenizer === undefined) return { ...known, endIds: source.endIds };
    const tokenizer = loadTokenizer(source.tokenizer, path, vocabSize);
    const found = use === "text" ? undefined : findChatTemplate(source.tokenizer, path);
    const encoder = use === "serve" ? new BackgroundEncoder(path, tokenizer) : undefined;
    if (found === undefined) {
      encoder?.start();
      return { ...known, tokenizer, encoder };
    }
    const template = createChatTemplate(found.template, tokenizer, found.tokens, { encoder });
    try {
      await template.validate(path);
    } catch (error) {
      template.close();
      throw error;
    }
    encoder?.start();
    return { ...known, tokenizer, template, encoder };
  } finally {
    source.close();
  }
};
