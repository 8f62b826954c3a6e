/**
 * Repetition, frequency and presence penalty, logit bias and bans of one sequence, as one
 * adjustment for each token that any of them touches.
 *
 * @module
 */
import type { LogitAdjustment } from "./runner_types.ts";
import type { GenerateRequest } from "./types.ts";

const NONE: readonly LogitAdjustment[] = [];
const NO_CHANGE = { bias: 0, scale: 1, add: 0 } as const;

type Change = Omit<LogitAdjustment, "id">;

function isSame(a: Change, b: Change): boolean {
  return a.bias === b.bias && a.scale === b.scale && a.add === b.add;
}

/** What changes the logits of a sequence before sampling; told of every chosen token. */
export interface TokenRules {
  push(id: number): void;
  adjustments(): readonly LogitAdjustment[];
}

/** What of a request the rules depend on. */
export type LogitRulesRequest = Pick<
  GenerateRequest,
  "promptIds" | "minTokens" | "stopTokenIds" | "bannedTokenIds" | "sampling"
>;

/**
 * Keeps the adjustments of a sequence up to date, one chosen token at a time: a push touches the
 * tokens that come into the window of the repetition penalty or leave it, never the whole history.
 *
 * The repetition penalty looks at the last `repeatLastN` tokens of prompt and answer, frequency and
 * presence penalty at the answer alone. A ban wins over everything.
 */
export class LogitRules implements TokenRules {
  readonly #repetition: number;
  readonly #frequency: number;
  readonly #presence: number;
  readonly #bias = new Map<number, number>();
  readonly #banned: ReadonlySet<number>;
  /** Banned until `minTokens` tokens are there; empty afterwards. */
  #early: ReadonlySet<number>;
  readonly #minTokens: number;
  #numTokens = 0;

  /** Tokens the window holds; 0: no window, Infinity: all tokens. */
  readonly #windowSize: number;
  /** Ring of the tokens in the window; unused while all tokens are in it. */
  readonly #ring: number[] = [];
  #oldest = 0;
  /** Occurrences in the window. */
  readonly #inWindow = new Map<number, number>();
  /** Occurrences in the answer; kept where a penalty needs them. */
  readonly #inAnswer = new Map<number, number>();

  readonly #entries = new Map<number, LogitAdjustment>();
  #list: readonly LogitAdjustment[] | null = NONE;

  constructor(request: LogitRulesRequest) {
    const { sampling } = request;
    this.#repetition = sampling.repetitionPenalty;
    this.#frequency = sampling.frequencyPenalty;
    this.#presence = sampling.presencePenalty;
    for (const [id, add] of sampling.logitBias) {
      this.#bias.set(id, (this.#bias.get(id) ?? 0) + add);
    }
    this.#banned = new Set(request.bannedTokenIds);
    this.#minTokens = request.minTokens;
    this.#early = new Set(request.minTokens > 0 ? request.stopTokenIds : []);
    this.#windowSize = this.#repetition === 1
      ? 0
      : sampling.repeatLastN < 0
      ? Infinity
      : sampling.repeatLastN;
    if (this.#windowSize > 0) {
      const start = Math.max(0, request.promptIds.length - this.#windowSize);
      for (let i = start; i < request.promptIds.length; i++) this.#enter(request.promptIds[i]!);
    }
    const touched = [this.#inWindow.keys(), this.#bias.keys(), this.#banned, this.#early];
    for (const ids of touched) {
      for (const id of ids) this.#update(id);
    }
  }

  /** Takes note of a token of the answer. */
  push(id: number): void {
    this.#numTokens++;
    if (this.#windowSize > 0) {
      const left = this.#enter(id);
      if (left !== null) this.#update(left);
    }
    if (this.#frequency !== 0 || this.#presence !== 0) {
      this.#inAnswer.set(id, (this.#inAnswer.get(id) ?? 0) + 1);
    }
    this.#update(id);
    if (this.#early.size > 0 && this.#numTokens >= this.#minTokens) {
      const released = this.#early;
      this.#early = new Set();
      for (const stop of released) this.#update(stop);
    }
  }

  /** What to change before the next token is chosen; each id at most once. */
  adjustments(): readonly LogitAdjustment[] {
    return this.#list ??= [...this.#entries.values()];
  }

  /** Puts a token into the window and gives the one that left it, if any. */
  #enter(id: number): number | null {
    this.#inWindow.set(id, (this.#inWindow.get(id) ?? 0) + 1);
    if (this.#windowSize === Infinity) return null;
    if (this.#ring.length < this.#windowSize) {
      this.#ring.push(id);
      return null;
    }
    const left = this.#ring[this.#oldest]!;
    this.#ring[this.#oldest] = id;
    this.#oldest = (this.#oldest + 1) % this.#windowSize;
    const count = this.#inWindow.get(left)! - 1;
    if (count === 0) this.#inWindow.delete(left);
    else this.#inWindow.set(left, count);
    return left;
  }

  /** Works out the entry of one token anew. */
  #update(id: number): void {
    const scale = this.#inWindow.has(id) ? this.#repetition : 1;
    const count = this.#inAnswer.get(id) ?? 0;
    const penalty = count === 0 ? 0 : this.#frequency * count + this.#presence;
    const bias = this.#bias.get(id) ?? 0;
    const banned = this.#banned.has(id) || this.#early.has(id) || bias === -Infinity;
    const entry = banned
      ? { id, bias: 0, scale: 1, add: -Infinity }
      : { id, bias, scale, add: 0 - penalty };
    const old = this.#entries.get(id) ?? { id, ...NO_CHANGE };
    if (isSame(entry, old)) return;
    if (isSame(entry, NO_CHANGE)) this.#entries.delete(id);
    else this.#entries.set(id, entry);
    this.#list = null;
  }
}
