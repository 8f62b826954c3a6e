/** What the tests of scoring and selection share: slots with recipes, lists, page tables. */
import {
  candidatesOf,
  LIST_PARAMS,
  type ListMode,
  maximaAt,
  packRecipe,
  PAGE_ROWS,
  type Recipe,
  recipeStride,
  scoreStride,
  selectionStride,
} from "../../src/gpu/ops/list_params.ts";
import { scoreKey } from "../reference/select.ts";
import type { Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

/** A row of a step. */
export interface ListRow {
  readonly slot: number;
  readonly position: number;
}

/** What lists are made for. */
export interface ListCase {
  readonly kvHeads: number;
  readonly group: number;
  readonly rows: readonly ListRow[];
  /** By slot; slots that are not named are left alone. */
  readonly recipes: Readonly<Record<number, Recipe>>;
  readonly seed: number;
  readonly firstRow?: number;
  /** Bits of ROW_KEEPS, for every row from position `keepsFrom` on. */
  readonly keeps?: number;
  readonly keepsFrom?: number;
  /** Mode that the kernel works for; slots of others have no candidates. */
  readonly mode?: ListMode;
  readonly listCapacity?: number;
  /** vec4u of a page of a KV head in the importance store. */
  readonly importanceQuads?: number;
  readonly base?: number;
  readonly count?: number;
}

/** A recipe that picks the same number of rows for each KV head. */
export function recipe(
  mode: ListMode,
  kvHeads: number,
  first: number,
  window: number,
  budget: number,
): Recipe {
  return { mode, first, window, budgets: new Array<number>(kvHeads).fill(budget) };
}

/** Fills buffers that more than one kernel reads. */
export function listSetup(rig: Rig, c: ListCase, random: Random) {
  const { kvHeads, group, rows, firstRow = 0, listCapacity = 64 } = c;
  const slots = Math.max(...rows.map(({ slot }) => slot)) + 2;
  const last = Math.max(...rows.map(({ position }) => position));
  const maxPages = Math.floor(last / PAGE_ROWS) + 2;
  const length = last + 1;
  const words = new Uint32Array(slots * recipeStride(kvHeads));
  const idle = recipe("rest", kvHeads, 1, 1, 5);
  const recipes = Array.from({ length: slots }, (_, slot) => c.recipes[slot] ?? idle);
  recipes.forEach((entry, slot) => packRecipe(entry, slot, words));
  const table = new Uint32Array((firstRow + rows.length + 1) * 4).fill(0xffffff);
  rows.forEach(({ slot, position }, row) => {
    const keeps = position < (c.keepsFrom ?? 0) ? 0 : c.keeps ?? 0;
    table.set([7, slot, position, keeps], (firstRow + row) * 4);
  });
  const pageTable = Uint32Array.from(random.permutation(slots * maxPages));
  const params = {
    num_heads: kvHeads * group,
    num_kv_heads: kvHeads,
    max_pages: maxPages,
    importance_quads: c.importanceQuads ?? 64,
    recipe_stride: recipeStride(kvHeads),
    score_stride: scoreStride(length),
    maxima_at: maximaAt(length),
    list_capacity: listCapacity,
    selection_stride: selectionStride(kvHeads, listCapacity),
    base: c.base ?? 0,
    count: c.count ?? 0xffffffff,
    mass_stride: length + 3,
  };
  return {
    slots,
    maxPages,
    length,
    params,
    pageTable,
    step: { num_rows: rows.length, first_row: firstRow },
    candidates: rows.map(({ slot, position }) => {
      const mine = recipes[slot]!;
      const works = c.mode === undefined || c.mode === mine.mode;
      return candidatesOf(works ? mine : { ...mine, mode: "rest" }, position);
    }),
    /** Index of the page of a row. */
    pageOf: (slot: number, position: number) =>
      pageTable[slot * maxPages + Math.floor(position / PAGE_ROWS)]!,
    buffers: {
      recipes: rig.storage(words),
      rows: rig.storage(table),
      pages: rig.storage(pageTable),
      params: rig.uniform(LIST_PARAMS.pack(params)),
    },
  };
}

export type ListSetup = ReturnType<typeof listSetup>;

/** What lists hold before a kernel runs; as a float it is a number, as a key it is large. */
export const BLANK = 0xdeadbeef;

/** An output buffer of words, filled with {@linkcode BLANK}. */
export function blankWords(count: number): Uint32Array<ArrayBuffer> {
  return new Uint32Array(count).fill(BLANK);
}

/**
 * Checks that scores and the maxima of eights belong together, and returns the candidates' scores.
 *
 * @param words (rows, KV heads, score_stride)
 */
export function readLists(
  setup: ListSetup,
  c: ListCase,
  words: Uint32Array<ArrayBuffer>,
): number[][] {
  const { score_stride, maxima_at } = setup.params;
  return setup.candidates.flatMap(({ from, to }, row) =>
    Array.from({ length: c.kvHeads }, (_, h) => {
      const start = (row * c.kvHeads + h) * score_stride;
      const scores = new Float32Array(words.buffer, start * 4, maxima_at);
      if (from === to) {
        const untouched = words.subarray(start, start + score_stride).every((x) => x === BLANK);
        assert.ok(untouched, `row ${row} has no candidates`);
        return [];
      }
      const first = Math.floor(from / PAGE_ROWS) * PAGE_ROWS;
      const end = Math.ceil(to / PAGE_ROWS) * PAGE_ROWS;
      for (let run = first; run < end; run += 8) {
        let key = scoreKey(-Infinity);
        for (let i = run; i < run + 8; i++) {
          if (i >= from && i < to) key = Math.max(key, scoreKey(scores[i]!));
          else assert.equal(scores[i], -Infinity, `row ${row}: index ${i} is no candidate`);
        }
        assert.equal(words[start + maxima_at + run / 8], key, `row ${row}: maximum at ${run}`);
      }
      return Array.from(scores.subarray(from, to));
    })
  );
}
