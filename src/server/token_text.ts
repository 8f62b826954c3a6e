/**
 * Follows one sequence from tokens to text: what may be sent, which tokens are behind it, and
 * where in the text each of them begins.
 *
 * @module
 */
import type { TokenLogprob } from "../engine/types.ts";
import type { TextStream, Tokenizer } from "../tokenizer/types.ts";
import { StopStrings } from "./stop_strings.ts";

/** A token with its log-probability and its place in the text of the choice. */
export interface PlacedToken {
  readonly id: number;
  /** Null for the very first token of a prompt, which nothing predicts. */
  readonly logprob: TokenLogprob | null;
  /** Characters (code points) of the choice's text before it. */
  readonly offset: number;
}

/** A piece of a choice's text that may be sent. */
export interface TextPiece {
  readonly text: string;
  /** Tokens whose text is complete with this piece. */
  readonly tokens: readonly PlacedToken[];
}

/** Tokens of the prompt that the answer's decoder is shown, so that it knows what it goes on from. */
const PRIMING_TOKENS = 4;

/** How {@linkcode TokenText} is set up. */
export interface TokenTextOptions {
  readonly stopStrings: readonly string[];
  readonly skipSpecial: boolean;
  /** Stop strings are not looked for in the text of this many first tokens. */
  readonly minTokens: number;
}

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** Text of one choice, token by token. Without a tokenizer every text is empty. */
export class TokenText {
  readonly #stops: StopStrings;
  #stream: TextStream | undefined;
  /** Tokens whose text is not all sent; `start` and `end` count UTF-16 units. */
  #pending: { readonly token: PlacedToken; readonly start: number; readonly end: number }[] = [];
  #producedUnits = 0;
  #producedPoints = 0;
  #sentUnits = 0;
  #numTokens = 0;

  constructor(
    private readonly tokenizer: Tokenizer | undefined,
    private readonly options: TokenTextOptions,
  ) {
    this.#stops = new StopStrings(options.stopStrings);
  }

  /** True once a stop string was found. */
  get stopped(): boolean {
    return this.#stops.stopped;
  }

  /**
   * A part of the echoed prompt. Its special tokens are text, because they were asked for; the
   * first `numAdded` ids are not, because they were not.
   */
  echo(ids: readonly number[], logprobs: readonly (TokenLogprob | null)[], numAdded: number) {
    this.#stream ??= this.tokenizer?.stream({ skipSpecial: false });
    let text = "";
    for (const [index, id] of ids.entries()) {
      const piece = index < numAdded ? "" : this.#decode(id);
      this.#place(id, logprobs[index] ?? null, piece);
      text += piece;
    }
    return this.#release(text);
  }

  /** Ends the prompt; the answer begins. */
  startAnswer(promptIds: readonly number[]): TextPiece {
    // The bytes of an unfinished character at the end of the prompt are completed by the answer.
    const rest = this.#stream?.end() ?? "";
    this.#producedUnits += rest.length;
    this.#producedPoints += codePoints(rest);
    this.#stream = this.tokenizer?.stream({ skipSpecial: this.options.skipSpecial });
    for (const id of promptIds.slice(-PRIMING_TOKENS)) this.#decode(id);
    return this.#release(rest);
  }

  /** A token of the answer, other than the one that ends it. */
  push(id: number, logprob: TokenLogprob | null): TextPiece {
    const piece = this.#decode(id);
    this.#numTokens++;
    this.#place(id, logprob, piece);
    if (this.#numTokens <= this.options.minTokens) return this.#release(piece);
    return this.#release(this.#stops.push(piece));
  }

  /** Ends the answer: gives what was held back. */
  end(): TextPiece {
    const rest = this.#stream?.end() ?? "";
    this.#producedUnits += rest.length;
    const text = this.#stops.push(rest);
    if (!this.stopped) return this.#release(text + this.#stops.end(), true);
    return this.#release(text);
  }

  /** An id with which the model pads its vocabulary has no text. */
  #decode(id: number): string {
    const { tokenizer } = this;
    return tokenizer !== undefined && id < tokenizer.vocabSize ? this.#stream?.push(id) ?? "" : "";
  }

  #place(id: number, logprob: TokenLogprob | null, piece: string): void {
    const start = this.#producedUnits;
    this.#producedUnits += piece.length;
    const token = { id, logprob, offset: this.#producedPoints };
    this.#pending.push({ token, start, end: this.#producedUnits });
    this.#producedPoints += codePoints(piece);
  }

  #release(text: string, all = false): TextPiece {
    this.#sentUnits += text.length;
    // At a stop string the text ends here: the token it cuts belongs to it, those after do not.
    const isOut = this.stopped
      ? (entry: { start: number }) => entry.start < this.#sentUnits
      : (entry: { end: number }) => all || entry.end <= this.#sentUnits;
    const kept = this.#pending.findIndex((entry) => !isOut(entry));
    const numOut = kept < 0 ? this.#pending.length : kept;
    const tokens = this.#pending.splice(0, numOut).map((entry) => entry.token);
    if (this.stopped) this.#pending = [];
    return { text, tokens };
  }
}
