/**
 * Row tables of the ways of scoring: whose rows a step scores, and whose importance it writes apart
 * from that.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { ROW_KEEPS, SUB_PAGE } from "../gpu/ops/list_params.ts";
import { SCORER_KINDS, SCORER_WORDS, type ScorerKind } from "./scorers/kinds.ts";
import type { ScorerTables } from "./scorers/types.ts";

/** A row of a decode step. */
export interface SelectorRow {
  readonly slot: number;
  readonly position: number;
}

/** What {@linkcode RowTables} asks about a slot. */
export interface RowTableOptions {
  /** Takes what is written for rows of sequences that have nothing here. */
  readonly trashSlot: number;
  readonly kindOf: (slot: number) => ScorerKind | null;
  /** Whether not all rows of a slot are on the device. */
  readonly isBelow: (slot: number) => boolean;
}

/** Both tables of every kind. */
export class RowTables implements Disposable {
  /** Rows that the tables of stored rows hold now, by kind: for the step's uniform. */
  readonly storeCounts: number[] = SCORER_KINDS.map(() => 0);
  readonly #tables: readonly ScorerTables[];
  readonly #queue: GPUQueue;
  readonly #options: RowTableOptions;
  readonly #words: Uint32Array<ArrayBuffer>;

  /**
   * @param maxSequences Rows of a decode step, at most.
   * @param maxStored Rows whose importance is written together, at most.
   */
  constructor(
    kernels: Kernels,
    maxSequences: number,
    maxStored: number,
    options: RowTableOptions,
  ) {
    this.#queue = kernels.device.queue;
    this.#options = options;
    this.#tables = SCORER_KINDS.map((kind) => ({
      own: kernels.storage(`${kind} rows`, maxSequences * 16),
      store: kernels.storage(`${kind} stored rows`, maxStored * 16),
    }));
    this.#words = new Uint32Array(maxStored * 4);
  }

  /** The tables of a kind. */
  of(kind: ScorerKind): ScorerTables {
    return this.#tables[SCORER_KINDS.indexOf(kind)]!;
  }

  /** @param from Rows before it are there but nothing is kept of them. */
  writeStore(
    kind: ScorerKind,
    rows: readonly (readonly [slot: number, position: number])[],
    from = 0,
  ): void {
    const { keeps } = SCORER_WORDS[kind];
    rows.forEach(([slot, position], row) =>
      this.#words.set([0, slot, position, position < from ? 0 : keeps], row * 4)
    );
    this.#queue.writeBuffer(this.of(kind).store, 0, this.#words, 0, rows.length * 4);
    this.storeCounts[SCORER_KINDS.indexOf(kind)] = rows.length;
  }

  /** Writes the rows of a step into the tables of kinds that are in use. */
  writeOwn(rows: readonly SelectorRow[], inUse: (kind: ScorerKind) => boolean): void {
    const { trashSlot, kindOf, isBelow } = this.#options;
    for (const kind of SCORER_KINDS) {
      if (!inUse(kind)) continue;
      const { keeps } = SCORER_WORDS[kind];
      rows.forEach(({ slot, position }, row) => {
        const listed = keeps === ROW_KEEPS.mass && isBelow(slot);
        const words = kindOf(slot) === kind
          ? [0, slot, position, listed ? ROW_KEEPS.listedMass : keeps]
          : [0, trashSlot, 0, 0];
        this.#words.set(words, row * 4);
      });
      this.#queue.writeBuffer(this.of(kind).own, 0, this.#words, 0, rows.length * 4);
    }
  }

  [Symbol.dispose](): void {
    for (const { own, store } of this.#tables) [own, store].forEach((buffer) => buffer.destroy());
  }
}

/**
 * Rows to name so that the importance of rows from .. to - 1 is written: each of them, or the last
 * one of each page of 16, which stands for the page.
 */
export function storePositions(kind: ScorerKind, from: number, to: number): number[] {
  if (to <= from) return [];
  if (kind !== "pages") return Array.from({ length: to - from }, (_, i) => from + i);
  const first = Math.floor(from / SUB_PAGE);
  const last = Math.floor((to - 1) / SUB_PAGE);
  return Array.from(
    { length: last - first + 1 },
    (_, i) => Math.min(to, (first + i + 1) * SUB_PAGE) - 1,
  );
}
