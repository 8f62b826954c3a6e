/** What passes between a background encoder and its worker. @module */
import type { EncodeOptions } from "./types.ts";

/** A text, and how it is to be encoded. */
export interface EncodePart extends EncodeOptions {
  readonly text: string;
}

/** Opens the tokenizer of a model, or encodes. */
export type EncodeRequest =
  | { readonly type: "open"; readonly path: string }
  | { readonly type: "encode"; readonly parts: readonly EncodePart[] };

/** The answer to one request. */
export type EncodeReply =
  /** `probe` has the ids of {@linkcode PROBE}. */
  | { readonly type: "ready"; readonly vocabSize: number; readonly probe: readonly number[] }
  | { readonly type: "ids"; readonly ids: readonly Uint32Array<ArrayBuffer>[] }
  | { readonly type: "failed"; readonly message: string };

/** Both sides encode this, so that a model that was replaced meanwhile shows. */
export const PROBE: EncodePart = {
  text: "The quick brown fox, 1234 times;\n\tund höchst süß: 日本 <s>",
  parseSpecial: true,
  addBos: true,
};
