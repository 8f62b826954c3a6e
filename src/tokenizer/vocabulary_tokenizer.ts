/** The one implementation of {@linkcode Tokenizer}: a table of tokens and a way to encode text. */

import { ByteTextStream } from "./text_stream.ts";
import type { EncodeOptions, TextStream, Tokenizer } from "./types.ts";

/** What distinguishes one tokenizer from another. */
export interface TokenizerParts {
  /** Of the model: ids between the tokenizer's own tokens and this stand for nothing. */
  readonly vocabSize: number;
  readonly kind: Tokenizer["kind"];
  readonly bosId: number | undefined;
  readonly addsBos: boolean;
  /** Put after a text that is given a BOS; few files ask for it. */
  readonly eosAfterText: number | undefined;
  readonly endIds: ReadonlySet<number>;
  readonly specialIds: ReadonlySet<number>;
  readonly hasUnknownPatterns: boolean;
  /** SentencePiece puts a space before a text, which is not part of it. */
  readonly addsSpace: boolean;
  /** Ids of a text, without BOS. */
  encodeText(text: string, parseSpecial: boolean): number[];
  /** Bytes of a token below vocabSize; empty for an id that is no token. */
  bytesOf(id: number): Uint8Array;
}

/** Enough that calls of the decoder do not count, few enough that their bytes are no burden. */
const DECODED_TOGETHER = 4096;

/** See {@linkcode Tokenizer}. */
export class VocabularyTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly kind: Tokenizer["kind"];
  readonly bosId: number | undefined;
  readonly addsBos: boolean;
  readonly endIds: ReadonlySet<number>;
  readonly hasUnknownPatterns: boolean;
  readonly #parts: TokenizerParts;

  constructor(parts: TokenizerParts) {
    this.#parts = parts;
    this.vocabSize = parts.vocabSize;
    this.kind = parts.kind;
    this.bosId = parts.bosId;
    this.addsBos = parts.addsBos;
    this.endIds = parts.endIds;
    this.hasUnknownPatterns = parts.hasUnknownPatterns;
  }

  encode(text: string, options: EncodeOptions): number[] {
    const ids = text === "" ? [] : this.#parts.encodeText(text, options.parseSpecial);
    if (!options.addBos) return ids;
    if (this.addsBos && this.bosId !== undefined) ids.unshift(this.bosId);
    if (this.#parts.eosAfterText !== undefined) ids.push(this.#parts.eosAfterText);
    return ids;
  }

  tokenBytes(id: number): Uint8Array {
    this.#check(id);
    return this.#parts.bytesOf(id);
  }

  isSpecial(id: number): boolean {
    return this.#parts.specialIds.has(id);
  }

  decode(
    ids: readonly number[],
    options: { skipSpecial?: boolean; continues?: boolean } = {},
  ): string {
    const stream = this.stream(options);
    let text = "";
    for (let at = 0; at < ids.length; at += DECODED_TOGETHER) {
      text += stream.pushAll(ids.slice(at, at + DECODED_TOGETHER));
    }
    return text + stream.end();
  }

  stream(options: { skipSpecial?: boolean; continues?: boolean } = {}): TextStream {
    return new ByteTextStream(this, {
      skipSpecial: options.skipSpecial ?? false,
      dropLeadingSpace: this.#parts.addsSpace && !(options.continues ?? false),
    });
  }

  #check(id: number): void {
    if (!Number.isInteger(id) || id < 0 || id >= this.vocabSize) {
      throw new RangeError(`token id ${id} is outside the vocabulary of ${this.vocabSize} tokens`);
    }
  }
}
