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
  #longest = 0;

  constructor(tokens: Iterable<readonly [string, number]>) {
    for (const [text, id] of tokens) {
      if (text === "") continue;
      this.#longest = Math.max(this.#longest, text.length);
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
      const match = this.#longestAt(text, at);
      if (match === undefined) {
        at++;
        continue;
      }
      if (at > start) parts.push(text.slice(start, at));
      parts.push(match.id);
      at = start = match.end;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }

  /**
   * The text with `mark` in every special token of two or more units, and after a special token
   * that only begins at its end: what follows cannot complete it. White space at the end is left.
   */
  breakUp(text: string, mark: string): string {
    let marked = "";
    let start = 0;
    for (let at = 0; at < text.length; at++) {
      if (this.#longestAt(text, at) === undefined) continue;
      marked += text.slice(start, at + 1) + mark;
      start = at + 1;
    }
    marked += text.slice(start);
    return this.#beginsAtEnd(text) ? marked + mark : marked;
  }

  #longestAt(text: string, at: number): { readonly id: number; readonly end: number } | undefined {
    let match: { id: number; end: number } | undefined;
    let node: number | undefined = 0;
    for (let i = at; i < text.length; i++) {
      node = this.#edges.get(node * 0x10000 + text.charCodeAt(i));
      if (node === undefined) break;
      const id = this.#ids.get(node);
      if (id !== undefined) match = { id, end: i + 1 };
    }
    return match;
  }

  #beginsAtEnd(text: string): boolean {
    for (let at = Math.max(0, text.length - this.#longest); at < text.length; at++) {
      let node: number | undefined = 0;
      for (let i = at; i < text.length && node !== undefined; i++) {
        node = this.#edges.get(node * 0x10000 + text.charCodeAt(i));
      }
      if (node !== undefined && text.slice(at).trim() !== "") return true;
    }
    return false;
  }
}
