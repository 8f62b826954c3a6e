/** Finding special tokens in a text. @module */

/** Texts that end a turn or a text in the models of the family; they count only as special tokens. */
export const END_TEXTS: ReadonlySet<string> = new Set([
  "<|im_end|>",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|end|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<end_of_turn>",
  "</s>",
  "<\uff5cend\u2581of\u2581sentence\uff5c>",
]);

/**
 * Cuts a text at the longest special token, from left to right. Time is linear in the text for
 * tokens of bounded length, whatever their number.
 */
export class SpecialTokens {
  /** node * 2^16 + UTF-16 unit -> node. */
  readonly #edges = new Map<number, number>();
  /** node -> id, where a token ends. */
  readonly #ids = new Map<number, number>();
  #nodes = 1;

  constructor(tokens: Iterable<readonly [string, number]>) {
    for (const [text, id] of tokens) {
      if (text === "") continue;
      let node = 0;
      for (let i = 0; i < text.length; i++) {
        const key = node * 0x10000 + text.charCodeAt(i);
        let child = this.#edges.get(key);
        if (child === undefined) {
          child = this.#nodes++;
          this.#edges.set(key, child);
        }
        node = child;
      }
      if (!this.#ids.has(node)) this.#ids.set(node, id);
    }
  }

  /** Texts and ids in the order of the text; no empty text. */
  split(text: string): (string | number)[] {
    const parts: (string | number)[] = [];
    let start = 0;
    for (let at = 0; at < text.length;) {
      let node: number | undefined = 0;
      let id = -1;
      let end = at;
      for (let i = at; i < text.length; i++) {
        node = this.#edges.get(node * 0x10000 + text.charCodeAt(i));
        if (node === undefined) break;
        const found = this.#ids.get(node);
        if (found !== undefined) {
          id = found;
          end = i + 1;
        }
      }
      if (id < 0) {
        at++;
        continue;
      }
      if (at > start) parts.push(text.slice(start, at));
      parts.push(id);
      at = start = end;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }

  /** Number of leading UTF-16 units that a token shares with the end of a text, at most. */
  partialAtEnd(text: string, longest: number): number {
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      let node: number | undefined = 0;
      for (let i = text.length - length; i < text.length && node !== undefined; i++) {
        node = this.#edges.get(node * 0x10000 + text.charCodeAt(i));
      }
      if (node !== undefined) return length;
    }
    return 0;
  }
}
