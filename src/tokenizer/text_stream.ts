/** Bytes of tokens to text, piece by piece. @module */

import type { TextStream } from "./types.ts";

/** What a {@linkcode ByteTextStream} needs to know of its tokenizer. */
export interface TokenBytesSource {
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
}

/** How a {@linkcode ByteTextStream} treats its tokens. */
export interface ByteTextStreamOptions {
  readonly skipSpecial: boolean;
  /** Drop one space at the very start of the text: SentencePiece wrote it, not the author. */
  readonly dropLeadingSpace: boolean;
}

const SPACE = 0x20;

/** Holds back the bytes of an unfinished character; what can never become one is U+FFFD. */
export class ByteTextStream implements TextStream {
  readonly #source: TokenBytesSource;
  readonly #skipSpecial: boolean;
  #dropSpace: boolean;
  // A streaming TextDecoder is the rule itself for what is half a character and what is none.
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(source: TokenBytesSource, options: ByteTextStreamOptions) {
    this.#source = source;
    this.#skipSpecial = options.skipSpecial;
    this.#dropSpace = options.dropLeadingSpace;
  }

  /** @throws {RangeError} If the id is outside the vocabulary. */
  push(id: number): string {
    let bytes = this.#source.tokenBytes(id);
    if (this.#skipSpecial && this.#source.isSpecial(id)) return "";
    if (bytes.length === 0) return "";
    if (this.#dropSpace) {
      this.#dropSpace = false;
      if (bytes[0] === SPACE) bytes = bytes.subarray(1);
    }
    return this.#decoder.decode(bytes, { stream: true });
  }

  end(): string {
    // Resets the decoder; what it gives back stands for the bytes that never became a character.
    this.#decoder.decode();
    return "";
  }
}
