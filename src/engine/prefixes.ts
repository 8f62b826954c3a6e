/**
 * What an engine does with the beginnings of prompts: which rows of a sequence others may use, and
 * whose it may use itself. The rows are somebody else's affair.
 *
 * @module
 */
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import type { Sequence } from "./sequence.ts";

/** Blocks of rows that are found again by the tokens that they stand for. */
export interface Prefixes {
  /** Names of the whole blocks of `ids`. */
  keys(ids: readonly number[], salt: string): readonly string[];
  /**
   * Brings the longest chain of known blocks into a slot that has just begun.
   *
   * @returns Rows that the slot has now; 0 where nothing is known, or nothing can be used.
   */
  adopt(slot: number, keys: readonly string[]): Promise<number>;
  /** Makes the first blocks of a slot known, if there is room for them. */
  offer(slot: number, keys: readonly string[]): Promise<void>;
  /**
   * Writes at most `limit` blocks to where they outlive the process.
   *
   * @returns How many are left.
   */
  save(limit: number): number;
}

interface Known {
  keys: readonly string[];
  numOffered: number;
}

/** Uses {@linkcode Prefixes} for sequences. */
export class PrefixUse {
  readonly #prefixes: Prefixes | null;
  readonly #known = new WeakMap<Sequence, Known>();

  /** @param prefixes Null: nothing is used again. */
  constructor(prefixes: Prefixes | null) {
    this.#prefixes = prefixes;
  }

  /**
   * Looks for the beginning of a sequence that has a slot and no rows.
   *
   * @returns Tokens that were found; null: it was not to be looked for.
   */
  async adopt(sequence: Sequence): Promise<number | null> {
    const { slot, numPrompt, preempted, request } = sequence;
    if (this.#prefixes === null || slot === null || preempted) return null;
    // Log-probabilities of a prompt come from its rows' own steps.
    if (request.cachePrompt === false || request.promptLogprobs !== null) return null;
    // One token is left to compute, for the logits after it.
    const most = Math.floor((numPrompt - 1) / BLOCK_ROWS);
    if (most === 0) return 0;
    const { keys } = this.#of(sequence);
    const numRows = await this.#prefixes.adopt(slot, keys.slice(0, most));
    if (numRows > 0) sequence.adopt(numRows, performance.now());
    return numRows;
  }

  /** Offers the whole blocks of a sequence that are not offered yet. */
  async offer(sequence: Sequence): Promise<void> {
    const { slot, request, numShareable } = sequence;
    if (this.#prefixes === null || slot === null || request.cachePrompt === false) return;
    const blocks = Math.floor(numShareable / BLOCK_ROWS);
    if (blocks === 0) return;
    const known = this.#of(sequence);
    if (blocks <= known.numOffered) return;
    if (blocks > known.keys.length) known.keys = this.#keys(sequence, blocks * BLOCK_ROWS);
    known.numOffered = blocks;
    await this.#prefixes.offer(slot, known.keys.slice(0, blocks));
  }

  /** Saves a block. @returns Whether there are more. */
  save(): boolean {
    return this.#prefixes !== null && this.#prefixes.save(1) > 0;
  }

  #of(sequence: Sequence): Known {
    let known = this.#known.get(sequence);
    if (known === undefined) {
      known = { keys: this.#keys(sequence, sequence.numPrompt), numOffered: 0 };
      this.#known.set(sequence, known);
    }
    return known;
  }

  #keys(sequence: Sequence, count: number): readonly string[] {
    return this.#prefixes!.keys(sequence.firstTokens(count), sequence.request.cacheSalt ?? "");
  }
}
