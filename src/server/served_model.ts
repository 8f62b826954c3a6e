/** What a loaded model is to the server. @module */
import type { Engine } from "../engine/types.ts";
import { encodeHere, type EncodePart, type PartEncoder } from "../tokenizer/background_encoder.ts";
import type { ChatTemplate, Tokenizer } from "../tokenizer/types.ts";

/** A model that can answer. */
export interface ServedModel {
  readonly engine: Engine;
  /** Absent for a model folder without a tokenizer: it serves ids only. */
  readonly tokenizer?: Tokenizer | undefined;
  /** Tokens that end a text where there is no tokenizer to tell; none when absent. */
  readonly endIds?: ReadonlySet<number> | undefined;
  /** Last part of the model's path, where it was opened from a file or folder. */
  readonly fileName?: string | undefined;
  /** Absent for a model without a chat template: it completes only. */
  readonly template?: ChatTemplate | undefined;
  /** Encodes what others should not wait for; without one the tokenizer does. */
  readonly encoder?: PartEncoder | undefined;
}

/** Ids of texts, by the model's encoder or else by its tokenizer. */
export function encodeTexts(
  { encoder }: Pick<ServedModel, "encoder">,
  tokenizer: Tokenizer,
  parts: readonly EncodePart[],
  signal: AbortSignal,
): Promise<readonly (readonly number[])[]> {
  return encoder?.encode(parts, signal) ?? encodeHere(tokenizer, parts);
}

/** Tokens that end a text: the tokenizer's, or those that the model's settings name. */
export function endIdsOf(
  model: Pick<ServedModel, "tokenizer" | "endIds">,
): ReadonlySet<number> {
  return model.tokenizer?.endIds ?? model.endIds ?? new Set();
}

const longestToken = new WeakMap<Tokenizer, number>();

/** Bytes of the longest token, found once. */
function longestTokenBytes(tokenizer: Tokenizer): number {
  const known = longestToken.get(tokenizer);
  if (known !== undefined) return known;
  let longest = 1;
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    longest = Math.max(longest, tokenizer.tokenBytes(id).byteLength);
  }
  longestToken.set(tokenizer, longest);
  return longest;
}

/**
 * A number of tokens that a text has at the very least, found without tokenizing it: a text of many
 * megabytes would hold up every other request for seconds only to be refused.
 */
export function leastTokens(tokenizer: Tokenizer, textLength: number): number {
  // A UTF-16 unit is at least one byte of UTF-8.
  return Math.ceil(textLength / longestTokenBytes(tokenizer));
}
