/**
 * SentencePiece BPE over the vocabulary and scores of a GGUF file: the pair whose entry scores
 * highest merges first; what stays outside the vocabulary is written as byte tokens.
 *
 * @module
 */

import { utf8 } from "./byte_level.ts";
import { mergeSymbols } from "./merge.ts";

/** How SentencePiece writes a space. */
export const SPACE_MARK = "\u2581";

/** What {@linkcode SentencePieceBpe} is made of. */
export interface SentencePieceVocabulary {
  /** Entries that plain text may become, by their text. */
  readonly ids: ReadonlyMap<string, number>;
  /** By id. */
  readonly scores: ArrayLike<number>;
  /** Id of each byte token, or -1. */
  readonly byteIds: Int32Array;
  /** Used where a byte token is missing; without one the byte is left out. */
  readonly unknownId: number | undefined;
}

/** Turns plain text into ids; special tokens have been cut out before. */
export class SentencePieceBpe {
  readonly #vocabulary: SentencePieceVocabulary;
  /** Place of each id in the order of merging; equal scores share a place. */
  readonly #ranks: Int32Array;
  readonly #longest: number;

  constructor(vocabulary: SentencePieceVocabulary) {
    this.#vocabulary = vocabulary;
    const { ids, scores } = vocabulary;
    const byScore = Int32Array.from(ids.values()).sort((a, b) => scores[b]! - scores[a]!);
    this.#ranks = new Int32Array(scores.length);
    let rank = -1;
    let last: number | undefined;
    for (const id of byScore) {
      if (scores[id] !== last) rank++;
      last = scores[id];
      this.#ranks[id] = rank;
    }
    let longest = 0;
    for (const text of ids.keys()) longest = Math.max(longest, text.length);
    this.#longest = longest;
  }

  /** Appends the ids of a text; spaces are those of the text, none is added. */
  encode(text: string, out: number[]): void {
    const marked = text.replaceAll(" ", SPACE_MARK);
    const { ids } = this.#vocabulary;
    const starts: number[] = [];
    for (let at = 0; at < marked.length;) {
      starts.push(at);
      at += marked.codePointAt(at)! > 0xffff ? 2 : 1;
    }
    const count = starts.length;
    const ends = new Int32Array(count);
    for (let i = 0; i < count; i++) ends[i] = starts[i + 1] ?? marked.length;
    const rank = (left: number, right: number) => {
      const start = starts[left]!;
      const end = ends[right]!;
      if (end - start > this.#longest) return -1;
      const id = ids.get(marked.slice(start, end));
      return id === undefined ? -1 : this.#ranks[id]!;
    };
    const next = mergeSymbols(count, rank, (left, right) => {
      ends[left] = ends[right]!;
    });
    for (let i = 0; i < count; i = next[i]!) {
      const piece = marked.slice(starts[i], ends[i]);
      const id = ids.get(piece);
      if (id === undefined) this.#encodeBytes(piece, out);
      else out.push(id);
    }
  }

  #encodeBytes(piece: string, out: number[]): void {
    const { byteIds, unknownId } = this.#vocabulary;
    const bytes = utf8(piece);
    if (bytes.every((byte) => byteIds[byte]! >= 0)) {
      for (const byte of bytes) out.push(byteIds[byte]!);
    } else if (unknownId !== undefined) {
      out.push(unknownId);
    }
  }
}
