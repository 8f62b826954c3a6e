/**
 * How well rows of a text are predicted under a policy, each row with a selection of its own.
 *
 * Rows of one text are decoded many at a time where that is the same as one by one: each in a slot of
 * its own that shows the rows of the same sequence. A layer writes the keys and values of all rows of a
 * step before any of them attends, and a row attends only to positions up to its own, so it sees what it
 * would see alone. That holds where a selection depends on the keys so far and nothing else; policies
 * that remember earlier steps go on row by row, many texts at a time.
 *
 * @module
 */
import { POLICIES } from "../butler/policies/mod.ts";
import { longestInterval } from "../butler/settings.ts";
import type { KvSettings } from "../butler/settings_types.ts";
import type { EngineParts } from "../engine/create.ts";
import type { DecodeRow, SampleSpec } from "../engine/runner_types.ts";
import type { TokenLogprob } from "../engine/types.ts";

/** Whether rows of a sequence can be decoded many at a time under these settings. */
export function rowsAreIndependent(settings: KvSettings): boolean {
  const { once, store } = POLICIES[settings.policy];
  return !once && store !== "mass" && longestInterval(settings) === 1;
}

/** A text whose last rows are decoded. */
export interface RowText {
  readonly ids: readonly number[];
  /** Tokens that are prefilled, all under dense attention. */
  readonly prefilled: number;
  readonly settings: KvSettings;
}

/** An engine that rows are decoded with; nothing else may use it meanwhile. */
export class RowScorer {
  readonly #parts: EngineParts;
  readonly #maxRows: number;
  /** Whose rows slot 0 has, and how many of them a prefill wrote. */
  #held: { readonly ids: readonly number[]; readonly prefilled: number } | null = null;

  /** @param maxRows Tokens of a text, at most. */
  constructor(parts: EngineParts, maxRows: number) {
    this.#parts = parts;
    this.#maxRows = maxRows;
  }

  /**
   * Negative log-likelihoods of the tokens after the prefilled ones.
   *
   * @param windows Ids of each.
   * @param prefilled Tokens that are prefilled, all under dense attention.
   * @returns By window: entry i is that of token `prefilled` + 1 + i, in nats.
   */
  async score(
    windows: readonly (readonly number[])[],
    prefilled: number,
    settings: KvSettings,
  ): Promise<number[][]> {
    const texts = windows.map((ids) => ({ ids, prefilled, settings }));
    return (await this.follow(texts)).map((text) => text.map(({ logprob }) => -logprob));
  }

  /**
   * Feeds texts token by token after their prefilled ones.
   *
   * @param top How many of the likeliest tokens are told beside each.
   * @returns By text: entry i is about token `prefilled` + 1 + i.
   */
  async follow(texts: readonly RowText[], top = 0): Promise<TokenLogprob[][]> {
    const found: TokenLogprob[][] = texts.map(() => []);
    const others: number[] = [];
    for (const [index, text] of texts.entries()) {
      if (rowsAreIndependent(text.settings)) found[index] = await this.#apart(text, top);
      else others.push(index);
    }
    if (others.length === 0) return found;
    const together = await this.#together(others.map((index) => texts[index]!), top);
    others.forEach((index, i) => found[index] = together[i]!);
    return found;
  }

  /**
   * Decodes some rows of a text that is prefilled as a whole.
   *
   * @param positions Rising.
   * @param onStep Told which rows a step had, once it is over; row i is in slot i.
   */
  async visit(
    ids: readonly number[],
    positions: readonly number[],
    settings: KvSettings,
    onStep: (rows: readonly DecodeRow[]) => Promise<void>,
  ): Promise<void> {
    const { runner, info } = this.#parts;
    const slots = Math.min(info.maxSequences, positions.length);
    await this.#show({ ids, prefilled: ids.length, settings }, slots);
    for (let first = 0; first < positions.length; first += slots) {
      const rows = positions.slice(first, first + slots).map((position, slot) => ({
        slot,
        position,
        token: ids[position]!,
        sample: forced(0, 0),
      }));
      await runner.decode(rows);
      await onStep(rows);
    }
    for (let slot = 1; slot < slots; slot++) runner.end(slot);
  }

  async #prefill(slot: number, ids: readonly number[], count: number): Promise<void> {
    const { runner, info } = this.#parts;
    for (let start = 0; start < count; start += info.prefillChunk) {
      const tokens = ids.slice(start, Math.min(count, start + info.prefillChunk));
      await runner.prefill({ slot, start, tokens, total: count, sample: null, scoring: null });
    }
  }

  /** Brings a text into slot 0 and shows it in some of the next ones too. */
  async #show({ ids, prefilled, settings }: RowText, slots: number): Promise<void> {
    const { runner, kv } = this.#parts;
    if (this.#held?.ids === ids && this.#held.prefilled === prefilled) runner.end(0);
    else {
      kv.release(0);
      kv.reserve(0, ids.length);
      await this.#prefill(0, ids, prefilled);
      this.#held = { ids, prefilled };
    }
    await runner.begin(0, { numRows: prefilled, maxRows: this.#maxRows, settings });
    await runner.adopt(0, prefilled);
    for (let slot = 1; slot < slots; slot++) runner.alias(slot, 0);
  }

  async #apart(text: RowText, top: number): Promise<TokenLogprob[]> {
    const { runner, info } = this.#parts;
    const { ids, prefilled } = text;
    const slots = Math.min(info.maxSequences, ids.length - prefilled);
    await this.#show(text, slots);
    const found: TokenLogprob[] = [];
    for (let first = prefilled; first + 1 < ids.length; first += slots) {
      const count = Math.min(slots, ids.length - 1 - first);
      const rows = Array.from({ length: count }, (_, slot) => ({
        slot,
        position: first + slot,
        token: ids[first + slot]!,
        sample: forced(ids[first + slot + 1]!, top),
      }));
      for (const { logprob } of await runner.decode(rows)) found.push(logprob!);
    }
    for (let slot = 1; slot < slots; slot++) runner.end(slot);
    return found;
  }

  /** Row by row, as many texts at a time as there are slots. */
  async #together(texts: readonly RowText[], top: number): Promise<TokenLogprob[][]> {
    const { runner, kv, info } = this.#parts;
    this.#forget();
    const found: TokenLogprob[][] = texts.map(() => []);
    const longest = Math.max(...texts.map(({ ids }) => ids.length));
    const room = Math.max(1, Math.floor(kv.device.numPages * 32 / (longest + 32)));
    const most = Math.min(info.maxSequences, room);
    for (let first = 0; first < texts.length; first += most) {
      const some = texts.slice(first, first + most);
      for (const [slot, { ids, prefilled, settings }] of some.entries()) {
        kv.reserve(slot, ids.length);
        await runner.begin(slot, { numRows: prefilled, maxRows: this.#maxRows, settings });
        await this.#prefill(slot, ids, prefilled);
      }
      for (let step = 0;; step++) {
        const rows = some.flatMap(({ ids, prefilled }, slot) => {
          const position = prefilled + step;
          if (position + 1 >= ids.length) return [];
          const sample = forced(ids[position + 1]!, top);
          return [{ slot, position, token: ids[position]!, sample }];
        });
        if (rows.length === 0) break;
        const results = await runner.decode(rows);
        results.forEach(({ logprob }, i) => found[first + rows[i]!.slot]!.push(logprob!));
      }
      some.forEach((_, slot) => kv.release(slot));
    }
    return found;
  }

  #forget(): void {
    if (this.#held !== null) this.#parts.kv.release(0);
    this.#held = null;
  }
}

/** Takes a token, and says how likely it and some others were. */
function forced(token: number, top: number): SampleSpec {
  return {
    temperature: 0,
    topK: 0,
    typicalP: 1,
    topP: 1,
    minP: 0,
    seed: 0,
    step: 0,
    adjustments: [],
    forced: token,
    logprobs: top,
  };
}
