/**
 * How much of each layer of a sequence lies on the device while the whole of it lies below. Pure.
 *
 * @module
 */
import { headBudgets, meanBudget, stepsKept } from "../butler/settings.ts";
import { growthOf } from "../butler/slots.ts";
import type { KvSettings } from "../butler/settings_types.ts";
import { BLOCK_ROWS } from "./slab_pool.ts";

/** Pages of one layer of a sequence. */
export interface LayerSet {
  /** Blocks 0 .. prefixBlocks - 1 stay once they are there. */
  readonly prefixBlocks: number;
  /** The newest blocks, the unfinished one included. */
  readonly windowBlocks: number;
  /** Pages for fetched rows. */
  readonly slotPages: number;
}

/** What a working set is made for. */
export interface WorkingSetNeed {
  readonly settings: KvSettings;
  /** Rows that the sequence can come to have. */
  readonly maxRows: number;
}

/** Pages of a layer's set. */
export function pagesOf(set: LayerSet): number {
  return set.prefixBlocks + set.windowBlocks + set.slotPages;
}

/** Blocks that hold the rows of a window wherever in a block it begins. */
function windowBlocks(rows: number): number {
  return Math.ceil(rows / BLOCK_ROWS) + 1;
}

/** The least that a sequence can run with: sinks, window and one page to fetch into, in each layer. */
export function smallestSet({ settings, maxRows }: WorkingSetNeed): LayerSet[] {
  const all = Math.ceil(maxRows / BLOCK_ROWS);
  const prefix = Math.ceil(settings.sinks / BLOCK_ROWS);
  const window = windowBlocks(settings.window);
  return settings.layers.map(() =>
    clip({ prefixBlocks: prefix, windowBlocks: window, slotPages: 1 }, all)
  );
}

/**
 * The smallest set and, where selections are kept for several steps, room for the rows that come
 * meanwhile: without it rows which leave the window have to be placed again.
 */
function steadySet(need: WorkingSetNeed): LayerSet[] {
  const { settings, maxRows } = need;
  const all = Math.ceil(maxRows / BLOCK_ROWS);
  return smallestSet(need).map((least, layer) => {
    if (settings.layers[layer]!.role !== "selected") return least;
    const window = windowBlocks(settings.window + stepsKept(settings, layer));
    return clip({ ...least, windowBlocks: window }, all);
  });
}

/** No more than there are blocks: a layer that is all there needs no page to fetch into. */
function clip(set: LayerSet, all: number): LayerSet {
  if (set.prefixBlocks + set.windowBlocks >= all) {
    return { prefixBlocks: Math.max(0, all - 1), windowBlocks: Math.min(1, all), slotPages: 0 };
  }
  return set;
}

/**
 * What a sequence would like: dense layers whole, window layers their window, selected layers slots
 * for twice the rows that a list of theirs has, neighbours included.
 */
export function wishedSet(need: WorkingSetNeed): LayerSet[] {
  const { settings, maxRows } = need;
  const budgets = headBudgets(settings, maxRows);
  const all = Math.ceil(maxRows / BLOCK_ROWS);
  return steadySet(need).map((least, layer) => {
    const { role } = settings.layers[layer]!;
    if (role === "dense") return clip({ ...least, prefixBlocks: all }, all);
    if (role === "window") {
      const rows = settings.window + meanBudget(settings, maxRows);
      return clip({ ...least, windowBlocks: windowBlocks(rows), slotPages: 0 }, all);
    }
    return withSlots(
      least,
      2 * growthOf(settings, layer, maxRows) * Math.max(...budgets[layer]!),
      all,
    );
  });
}

/** A set with slots for so many rows of each KV head. */
function withSlots(least: LayerSet, rows: number, all: number): LayerSet {
  return clip({ ...least, slotPages: Math.max(1, Math.ceil(rows / BLOCK_ROWS)) }, all);
}

/** A set in which no row of a selection passes through: the wish, with slots for one list each. */
export function wholeListsSet(need: WorkingSetNeed): LayerSet[] {
  const lists = listSets(need).at(-1)!;
  return wishedSet(need).map((wish, layer) =>
    need.settings.layers[layer]!.role === "selected" ? lists[layer]! : wish
  );
}

/**
 * Sets with slots for all rows of one list of each selected layer, neighbours included: for the
 * shortest of its KV heads, then for the next. A page serves all of them, so it saves most where the
 * most lists are longer than the slots: rows of a list that has too few pass through at every step.
 */
function listSets(need: WorkingSetNeed): LayerSet[][] {
  const { settings, maxRows } = need;
  const all = Math.ceil(maxRows / BLOCK_ROWS);
  const budgets = headBudgets(settings, maxRows).map((heads) => heads.toSorted((a, b) => a - b));
  const heads = Math.max(0, ...budgets.map(({ length }) => length));
  return Array.from(
    { length: heads },
    (_, rank) =>
      steadySet(need).map((least, layer) =>
        settings.layers[layer]!.role === "selected"
          ? withSlots(least, growthOf(settings, layer, maxRows) * budgets[layer]![rank]!, all)
          : least
      ),
  );
}

/**
 * The working set of a sequence: the smallest one, and of what it would like beside that as much as
 * there is room for: windows that last until the next selection, then dense layers (they would be
 * streamed whole in every step), then slots for whole lists, then the rest.
 *
 * @param freePages Of each slab.
 * @returns Null if not even the smallest fits.
 */
export function planWorkingSet(
  need: WorkingSetNeed,
  layerSlab: readonly number[],
  freePages: readonly number[],
): LayerSet[] | null {
  const sets = smallestSet(need);
  const wish = wishedSet(need);
  const free = [...freePages];
  sets.forEach((set, layer) => free[layerSlab[layer]!]! -= pagesOf(set));
  if (free.some((pages) => pages < 0)) return null;
  const grow = (wish: readonly LayerSet[], roles: readonly string[]) => {
    for (let slab = 0; slab < free.length; slab++) {
      const lack = (layer: number) => pagesOf(wish[layer]!) - pagesOf(sets[layer]!);
      // Those that lack least come first: what they leave of their share is for the others.
      const layers = sets.keys().toArray()
        .filter((layer) =>
          layerSlab[layer] === slab && roles.includes(need.settings.layers[layer]!.role) &&
          lack(layer) > 0
        )
        .sort((a, b) => lack(a) - lack(b));
      layers.forEach((layer, index) => {
        const share = Math.floor(free[slab]! / (layers.length - index));
        const grown = towards(sets[layer]!, wish[layer]!, share);
        free[slab]! -= pagesOf(grown) - pagesOf(sets[layer]!);
        sets[layer] = grown;
      });
    }
  };
  grow(steadySet(need), ["selected"]);
  grow(wish, ["dense"]);
  for (const lists of listSets(need)) grow(lists, ["selected"]);
  grow(wish, ["window", "selected"]);
  return sets;
}

/** Up to `pages` more, in the direction of the wish. */
function towards(set: LayerSet, wish: LayerSet, pages: number): LayerSet {
  if (pagesOf(wish) - pagesOf(set) <= pages) return wish;
  const room = pages;
  const prefix = Math.min(room, Math.max(0, wish.prefixBlocks - set.prefixBlocks));
  const window = Math.min(room - prefix, Math.max(0, wish.windowBlocks - set.windowBlocks));
  const slots = Math.min(
    room - prefix - window,
    Math.max(0, wish.slotPages - set.slotPages),
  );
  return {
    prefixBlocks: set.prefixBlocks + prefix,
    windowBlocks: set.windowBlocks + window,
    slotPages: set.slotPages + slots,
  };
}
