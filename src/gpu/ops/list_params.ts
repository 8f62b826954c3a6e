/**
 * What the kernels that score cached rows and pick the best of them share: sizes, the layout of the
 * buffers between them, and one uniform for all.
 *
 * A list belongs to one row of the step and one KV head. Its candidates are positions (or pages of
 * {@linkcode SUB_PAGE} positions) `from <= index < to`, see {@linkcode candidatesOf}.
 *
 * @module
 */
import { defineParams } from "../params.ts";

/** Rows of a page of the cache and of the importance store. */
export const PAGE_ROWS = 32;

/** Positions that the bounds of `quest` cover together. */
export const SUB_PAGE = 16;

/** Dimensions of an importance key. */
export const IMPORTANCE_DIMS = 16;

/** Neighbouring scores whose largest is kept beside them. */
export const TILE = 8;

/** Uniform of every kernel that reads or writes lists. */
export const LIST_PARAMS = defineParams("ListParams", {
  num_heads: "u32",
  num_kv_heads: "u32",
  /** Pages of a slot in the page tables. */
  max_pages: "u32",
  /** vec4u of one page of one KV head in the importance store. */
  importance_quads: "u32",
  /** u32 of a slot's recipe, {@linkcode recipeStride}. */
  recipe_stride: "u32",
  /** u32 of a list of scores with its maxima, {@linkcode scoreStride}. */
  score_stride: "u32",
  /** Where the maxima of a list begin, {@linkcode maximaAt}. */
  maxima_at: "u32",
  /** Rows that the list of one KV head has room for. */
  list_capacity: "u32",
  /** u32 of a slot's selection. */
  selection_stride: "u32",
  /** First position of the keys in a staging buffer, a multiple of a page; 0 with a page table. */
  base: "u32",
  /** Positions that the keys given cover from `base` on. */
  count: "u32",
  /** f32 of a list of attention mass. */
  mass_stride: "u32",
});

/** Where the maxima of a list begin, in u32: after the scores of `positions` positions (or pages). */
export function maximaAt(positions: number): number {
  return Math.ceil(positions / PAGE_ROWS) * PAGE_ROWS;
}

/** u32 of a list for `positions` positions (or pages): scores, then the largest of each tile. */
export function scoreStride(positions: number): number {
  return maximaAt(positions) / TILE * (TILE + 1);
}

/**
 * u32 of a slot's recipe: mode (see {@linkcode LIST_MODES}), first candidate (the sinks), rows of the
 * window, flags ({@linkcode PICKS_ONLY}, `WANTS_NEIGHBOURS`), then the budget of each KV head in rows (or pages), padded to whole vec4u.
 */
export function recipeStride(numKvHeads: number): number {
  return 4 + Math.ceil(numKvHeads / 4) * 4;
}

/** How a slot's candidates are scored, by the number that a recipe holds. */
export const LIST_MODES = {
  /** The slot is left alone: its selection stays as it is. */
  rest: 0,
  /** Importance keys (score_projected). */
  projected: 1,
  /** Whole keys (score_exact). */
  exact: 2,
  /** Bounds of pages of {@linkcode SUB_PAGE} (score_pages). */
  pages: 3,
  /** Attention mass (score_lists). */
  mass: 4,
} as const;

/** Name of a mode. */
export type ListMode = keyof typeof LIST_MODES;

/** Flag of a recipe: what is picked does not become the slot's selection; whoever reads it decides. */
export const PICKS_ONLY = 2;

/** What of a row of the step goes to the importance store: bits of the fourth word of its entry. */
export const ROW_KEEPS = {
  /** Its importance key (importance_project). */
  key: 1,
  /** The bounds of its sub-page (page_bounds). */
  bounds: 2,
  /** The attention that it gives to others (attention_mass, list_mass). */
  mass: 4,
  /** The same in decode steps of a sequence below the device, whose lists are made on the host. */
  listedMass: 8,
} as const;

/** What is selected for a slot. */
export interface Recipe {
  readonly mode: ListMode;
  /** First candidate: rows before it are always attended. */
  readonly first: number;
  /** Newest rows that are always attended. */
  readonly window: number;
  /** (KV heads) rows (or pages) to pick. */
  readonly budgets: readonly number[];
}

/** Writes a recipe at its slot of the buffer of recipes. */
export function packRecipe(recipe: Recipe, slot: number, out: Uint32Array): void {
  const at = slot * recipeStride(recipe.budgets.length);
  out.set([LIST_MODES[recipe.mode], recipe.first, recipe.window, 0, ...recipe.budgets], at);
}

/**
 * Candidates `from <= index < to` of a row at `position`; none where both are equal. Of pages, the one
 * that holds the row itself is never a candidate: it is the window.
 */
export function candidatesOf(
  recipe: Recipe,
  position: number,
): { readonly from: number; readonly to: number } {
  const { mode, first, window } = recipe;
  const to = mode === "pages"
    ? Math.floor(position / SUB_PAGE)
    : Math.max(0, position + 1 - window);
  return { from: first, to: mode === "rest" ? first : Math.max(first, to) };
}

/** u32 of a selection before its lists. */
export function selectionHeader(numKvHeads: number): number {
  return 4 + Math.ceil(numKvHeads / 4) * 4;
}

/** u32 of a slot's selection. */
export function selectionStride(numKvHeads: number, listCapacity: number): number {
  return selectionHeader(numKvHeads) + numKvHeads * listCapacity;
}
