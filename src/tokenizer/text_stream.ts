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
const NO_BYTES = new Uint8Array(0);

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
    const bytes = this.#bytesOf(id);
    return bytes.length === 0 ? "" : this.#decoder.decode(bytes, { stream: true });
  }

  /** @throws {RangeError} If an id is outside the vocabulary; nothing is taken then. */
  pushAll(ids: readonly number[]): string {
    const drops = this.#dropSpace;
    let length = 0;
    let pieces: Uint8Array[];
    try {
      pieces = ids.map((id) => {
        const bytes = this.#bytesOf(id);
        length += bytes.length;
        return bytes;
      });
    } catch (error) {
      this.#dropSpace = drops;
      throw error;
    }
    // A call of the decoder costs ten times what its bytes do.
    const all = new Uint8Array(length);
    let at = 0;
    for (const bytes of pieces) {
      all.set(bytes, at);
      at += bytes.length;
    }
    return this.#decoder.decode(all, { stream: true });
  }

  #bytesOf(id: number): Uint8Array {
    const bytes = this.#source.tokenBytes(id);
    if (this.#skipSpecial && this.#source.isSpecial(id)) return NO_BYTES;
    if (!this.#dropSpace || bytes.length === 0) return bytes;
    this.#dropSpace = false;
    return bytes[0] === SPACE ? bytes.subarray(1) : bytes;
  }

  end(): string {
    // Resets the decoder; what it gives back stands for the bytes that never became a character.
    this.#decoder.decode();
    return "";
  }
}
