/**
 * How well rows of a text are predicted under a policy, each row with a selection of its own.
 *
 * Rows of one window are decoded many at a time where that is the same as one by one: each in a slot of
 * its own that shows the rows of the same sequence. A layer writes the keys and values of all rows of a
 * step before any of them attends, and a row attends only to positions up to its own, so it sees what it
 * would see alone. That holds where a selection depends on the keys so far and nothing else; policies
 * that remember earlier steps go on row by row, many windows at a time.
 *
 * @module
 */
import { POLICIES } from "../butler/policies/mod.ts";
import type { KvSettings } from "../butler/settings_types.ts";
import type { EngineParts } from "../engine/create.ts";
import type { SampleSpec } from "../engine/runner_types.ts";

/** Whether rows of a sequence can be decoded many at a time under these settings. */
export function rowsAreIndependent({ policy, interval }: KvSettings): boolean {
  const { once, store } = POLICIES[policy];
  return !once && store !== "mass" && interval === 1;
}

/** An engine that rows are decoded with; nothing else may use it meanwhile. */
export class RowScorer {
  readonly #parts: EngineParts;
  readonly #maxRows: number;
  /** Whose rows slot 0 has. */
  #window: readonly number[] | null = null;

  /** @param maxRows Tokens of a window, at most. */
  constructor(parts: EngineParts, maxRows: number) {
    this.#parts = parts;
    this.#maxRows = maxRows;
  }

  /**
   * Negative log-likelihoods of the tokens after the prefilled ones.
   *
   * @param ids (tokens) of each window, all of one length.
   * @param prefilled Tokens that are prefilled, all under dense attention.
   * @returns By window: entry i is that of token `prefilled` + 1 + i, in nats.
   */
  async score(
    windows: readonly (readonly number[])[],
    prefilled: number,
    settings: KvSettings,
  ): Promise<number[][]> {
    if (!rowsAreIndependent(settings)) return await this.#together(windows, prefilled, settings);
    const scores: number[][] = [];
    for (const ids of windows) scores.push(await this.#apart(ids, prefilled, settings));
    return scores;
  }

  async #prefill(slot: number, ids: readonly number[], count: number): Promise<void> {
    const { runner, info } = this.#parts;
    for (let start = 0; start < count; start += info.prefillChunk) {
      const tokens = ids.slice(start, Math.min(count, start + info.prefillChunk));
      await runner.prefill({ slot, start, tokens, total: count, sample: null, scoring: null });
    }
  }

  async #apart(
    ids: readonly number[],
    prefilled: number,
    settings: KvSettings,
  ): Promise<number[]> {
    const { runner, kv, info } = this.#parts;
    const need = { numRows: prefilled, maxRows: this.#maxRows, settings };
    if (this.#window !== ids) {
      kv.release(0);
      kv.reserve(0, ids.length);
      await this.#prefill(0, ids, prefilled);
      this.#window = ids;
    } else runner.end(0);
    await runner.begin(0, need);
    await runner.adopt(0, prefilled);
    const slots = Math.min(info.maxSequences, ids.length - prefilled);
    for (let slot = 1; slot < slots; slot++) runner.alias(slot, 0);
    const scores: number[] = [];
    for (let first = prefilled; first + 1 < ids.length; first += slots) {
      const count = Math.min(slots, ids.length - 1 - first);
      const rows = Array.from({ length: count }, (_, slot) => ({
        slot,
        position: first + slot,
        token: ids[first + slot]!,
        sample: forced(ids[first + slot + 1]!),
      }));
      for (const { logprob } of await runner.decode(rows)) scores.push(-logprob!.logprob);
    }
    for (let slot = 1; slot < slots; slot++) runner.end(slot);
    return scores;
  }

  /** Row by row, as many windows at a time as there are slots. */
  async #together(
    windows: readonly (readonly number[])[],
    prefilled: number,
    settings: KvSettings,
  ): Promise<number[][]> {
    const { runner, kv, info } = this.#parts;
    this.#forget();
    const scores: number[][] = windows.map(() => []);
    const length = windows[0]!.length;
    const room = Math.max(1, Math.floor(kv.device.numPages * 32 / (length + 32)));
    const most = Math.min(info.maxSequences, room);
    for (let first = 0; first < windows.length; first += most) {
      const some = windows.slice(first, first + most);
      for (const [slot, ids] of some.entries()) {
        kv.reserve(slot, length);
        await runner.begin(slot, { numRows: prefilled, maxRows: this.#maxRows, settings });
        await this.#prefill(slot, ids, prefilled);
      }
      for (let position = prefilled; position + 1 < length; position++) {
        const results = await runner.decode(some.map((ids, slot) => ({
          slot,
          position,
          token: ids[position]!,
          sample: forced(ids[position + 1]!),
        })));
        results.forEach(({ logprob }, i) => scores[first + i]!.push(-logprob!.logprob));
      }
      some.forEach((_, slot) => kv.release(slot));
    }
    return scores;
  }

  #forget(): void {
    if (this.#window !== null) this.#parts.kv.release(0);
    this.#window = null;
  }
}

/** Takes a token, and says how likely it was. */
function forced(token: number): SampleSpec {
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
    logprobs: 0,
  };
}
