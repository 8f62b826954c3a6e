/**
 * Which rows a decode row attends to, as the shaders read it (`shaders/common/selection.wgsl`): one
 * buffer of u32 a layer, a part of fixed size a slot.
 *
 * @module
 */

/** What stands first in a slot's part. */
export const SELECTION_MODES = { dense: 0, rows: 1 } as const;

/** As the first row of the window: the window is the newest rows, however far the sequence is. */
export const SLIDING = 0xffffffff;

/** As the position of a row: its sequence has no keys here but listed ones. */
export const NO_ROWS = 0xffffffff;

/** What the rows of a slot attend to in one layer. */
export interface SlotSelection {
  readonly mode: keyof typeof SELECTION_MODES;
  /** Rows from the beginning of the sequence. */
  readonly prefix: number;
  /** First row of the window, or {@linkcode SLIDING}. */
  readonly windowStart: number;
  /** Rows of a sliding window. */
  readonly windowRows: number;
  /** (KV heads, listed rows) rows of the slab, in ascending order of their positions. */
  readonly lists: readonly (readonly number[])[];
}

/** u32 of a slot's part before its lists. */
export function selectionHeader(numKvHeads: number): number {
  return 4 + Math.ceil(numKvHeads / 4) * 4;
}

/**
 * u32 of a slot's part.
 *
 * @param listCapacity Rows that the list of one KV head has room for.
 */
export function selectionStride(numKvHeads: number, listCapacity: number): number {
  return selectionHeader(numKvHeads) + numKvHeads * listCapacity;
}

/**
 * Writes a slot's part.
 *
 * @param out (slots, stride) u32
 * @throws {RangeError} If a list is longer than its room.
 */
export function packSelection(
  selection: SlotSelection,
  slot: number,
  listCapacity: number,
  out: Uint32Array,
): void {
  const { mode, prefix, windowStart, windowRows, lists } = selection;
  const at = slot * selectionStride(lists.length, listCapacity);
  out.set([SELECTION_MODES[mode], prefix, windowStart, windowRows], at);
  lists.forEach((list, head) => {
    if (list.length > listCapacity) {
      throw new RangeError(`a list of ${list.length} rows does not fit into ${listCapacity}`);
    }
    out[at + 4 + head] = list.length;
    out.set(list, at + selectionHeader(lists.length) + head * listCapacity);
  });
}

/** Keys that a row at `position` attends to in each KV head. */
export function attendedKeys(selection: SlotSelection, position: number): number[] {
  const rows = (position + 1) % 2 ** 32;
  if (selection.mode === "dense") return selection.lists.map(() => rows);
  const { prefix, start } = attendedRanges(selection, position);
  return selection.lists.map((list) => prefix + list.length + rows - start);
}

/** Rows 0 .. prefix - 1 and start .. position are attended beside the lists. */
export function attendedRanges(
  selection: SlotSelection,
  position: number,
): { readonly prefix: number; readonly start: number } {
  const rows = (position + 1) % 2 ** 32;
  const prefix = Math.min(selection.prefix, rows);
  const start = selection.windowStart === SLIDING
    ? rows - Math.min(selection.windowRows, rows)
    : Math.min(selection.windowStart, rows);
  return { prefix, start: Math.max(start, prefix) };
}
