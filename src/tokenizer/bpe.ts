/** Byte-level BPE over the vocabulary and merges of a GGUF file. @module */

import { BYTE_CHARS, bytesToChars, utf8 } from "./byte_level.ts";
import { mergeSymbols } from "./merge.ts";
import { preTokenize, type PreTokenizerRule } from "./pre_tokenize.ts";

/** Words remembered with their ids; prose repeats itself. */
const CACHE_WORDS = 16_384;
const CACHE_WORD_LENGTH = 64;

/** Turns plain text into ids; special tokens have been cut out before. */
export class ByteLevelBpe {
  readonly #rule: PreTokenizerRule;
  /** Vocabulary entries that text may become, by their text. */
  readonly #ids: ReadonlyMap<string, number>;
  /** Symbols that only merges know, numbered after the vocabulary. */
  readonly #symbols = new Map<string, number>();
  readonly #symbolTexts: string[] = [];
  readonly #vocabSize: number;
  readonly #byteSymbols: Int32Array;
  /** left symbol * stride + right symbol -> rank of the merge. */
  readonly #ranks = new Map<number, number>();
  readonly #merged: Int32Array;
  readonly #stride: number;
  readonly #cache = new Map<string, readonly number[]>();

  /**
   * @param ids Vocabulary entries that plain text may become.
   * @param vocabSize Above every id.
   * @param merges (left, right), the most important first.
   */
  constructor(
    rule: PreTokenizerRule,
    ids: ReadonlyMap<string, number>,
    vocabSize: number,
    merges: readonly (readonly [string, string])[],
  ) {
    this.#rule = rule;
    this.#ids = ids;
    this.#vocabSize = vocabSize;
    this.#byteSymbols = Int32Array.from(BYTE_CHARS, (char) => this.#symbol(char));
    this.#stride = vocabSize + BYTE_CHARS.length + 3 * merges.length;
    this.#merged = new Int32Array(merges.length);
    for (const [rank, [left, right]] of merges.entries()) {
      const key = this.#symbol(left) * this.#stride + this.#symbol(right);
      if (!this.#ranks.has(key)) this.#ranks.set(key, rank);
      this.#merged[rank] = this.#symbol(left + right);
    }
  }

  /** Appends the ids of a text. */
  encode(text: string, out: number[]): void {
    for (const word of preTokenize(text, this.#rule)) {
      let ids = this.#cache.get(word);
      if (ids === undefined) {
        ids = this.#encodeWord(word);
        if (word.length <= CACHE_WORD_LENGTH) {
          if (this.#cache.size >= CACHE_WORDS) this.#cache.clear();
          this.#cache.set(word, ids);
        }
      }
      for (const id of ids) out.push(id);
    }
  }

  #symbol(text: string): number {
    let symbol = this.#ids.get(text) ?? this.#symbols.get(text);
    if (symbol === undefined) {
      symbol = this.#vocabSize + this.#symbolTexts.length;
      this.#symbolTexts.push(text);
      this.#symbols.set(text, symbol);
    }
    return symbol;
  }

  #encodeWord(word: string): number[] {
    const bytes = utf8(word);
    if (this.#rule.ignoreMerges) {
      const whole = this.#ids.get(bytesToChars(bytes));
      if (whole !== undefined) return [whole];
    }
    const symbols = new Int32Array(bytes.length);
    for (let i = 0; i < bytes.length; i++) symbols[i] = this.#byteSymbols[bytes[i]!]!;
    const rank = (left: number, right: number) =>
      this.#ranks.get(symbols[left]! * this.#stride + symbols[right]!) ?? -1;
    const next = mergeSymbols(bytes.length, rank, (left, right) => {
      symbols[left] = this.#merged[rank(left, right)]!;
    });
    const ids: number[] = [];
    for (let i = 0; i < bytes.length; i = next[i]!) {
      const symbol = symbols[i]!;
      if (symbol < this.#vocabSize) {
        ids.push(symbol);
        continue;
      }
      // A merge made something that is no vocabulary entry: fall back to its bytes. Bytes without
      // an entry are left out, as llama.cpp does: the unknown token of such files often ends a text.
      for (const char of this.#symbolTexts[symbol - this.#vocabSize]!) {
        const id = this.#ids.get(char);
        if (id !== undefined) ids.push(id);
      }
    }
    return ids;
  }
}
