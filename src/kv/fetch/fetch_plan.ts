/**
 * What it takes to have the chosen rows of a layer on the device: which of them are there, which
 * are fetched into slots, and which must pass through the stage. Pure but for the slot tables.
 *
 * @module
 */
import type { OffloadedRows } from "../offloaded.ts";
import { BLOCK_ROWS } from "../slab_pool.ts";
import { NO_SLOT } from "./slot_table.ts";

/** The rows of one KV head. */
export interface HeadPlan {
  /** Device rows that attention reads from the slabs, in ascending order of positions. */
  readonly list: Uint32Array<ArrayBuffer>;
  /** Positions of the rows of the list. */
  readonly positions: Uint32Array<ArrayBuffer>;
  /** Positions to fetch, and the device rows that they go to. */
  readonly missing: Uint32Array<ArrayBuffer>;
  readonly targets: Uint32Array<ArrayBuffer>;
  /** Positions that have no room on the device. */
  readonly streamed: Uint32Array<ArrayBuffer>;
}

const NONE = new Uint32Array(0);

/** Rows of a selection, and from which row on they are attended as a window. */
export interface WantedRows {
  /** Ascending positions of rows that were chosen. */
  readonly picked: Uint32Array<ArrayBuffer>;
  /** All rows from here to the window are wanted too. */
  readonly from: number;
  /** First row that stays on the device as part of the window until the next selection. */
  readonly windowStart: number;
}

/**
 * Plans one KV head of one layer.
 *
 * @param stableFrom Blocks from here on keep their pages until the next selection.
 * @param room Where the list goes; memory of its own if not given.
 */
export function planHead(
  rows: OffloadedRows,
  layer: number,
  kvHead: number,
  { picked, from, windowStart }: WantedRows,
  stableFrom: number,
  room?: Uint32Array<ArrayBuffer>,
): HeadPlan {
  const positions = withRun(picked, from, windowStart);
  const count = positions.length;
  // Positions ascend: rows on pages that stay are the first and the last ones.
  const prefixRows = rows.sets[layer]!.prefixBlocks * BLOCK_ROWS;
  const first = countBelow(positions, prefixRows);
  const end = Math.max(first, countBelow(positions, stableFrom * BLOCK_ROWS));
  const list = room?.subarray(0, count) ?? new Uint32Array(count);
  placeOnPages(rows, layer, positions, list, 0, first);
  placeOnPages(rows, layer, positions, list, end, count);
  const placement = rows.slots(layer, kvHead).place(positions, first, end - first);
  const { slots, numStreamed } = placement;
  const slotRows = rows.slotRows(layer);
  if (numStreamed === 0) {
    for (let i = 0; i < slots.length; i++) list[first + i] = slotRows[slots[i]!]!;
  }
  const numMissing = placement.missing.length;
  const missing = new Uint32Array(numMissing);
  const targets = new Uint32Array(numMissing);
  for (let i = 0; i < numMissing; i++) {
    const index = placement.missing[i]!;
    missing[i] = positions[first + index]!;
    targets[i] = slotRows[slots[index]!]!;
  }
  if (numStreamed === 0) return { list, positions, missing, targets, streamed: NONE };
  // Those without a slot leave both lists.
  const listed = positions.slice();
  const streamed = new Uint32Array(numStreamed);
  let kept = first;
  let gone = 0;
  for (let i = 0; i < slots.length; i++) {
    const slot = slots[i]!;
    const position = positions[first + i]!;
    if (slot === NO_SLOT) {
      streamed[gone++] = position;
      continue;
    }
    list[kept] = slotRows[slot]!;
    listed[kept++] = position;
  }
  list.copyWithin(kept, end).fill(0, count - numStreamed);
  listed.copyWithin(kept, end);
  return {
    list: list.subarray(0, count - numStreamed),
    positions: listed.subarray(0, count - numStreamed),
    missing,
    targets,
    streamed,
  };
}

/** Ascending positions and those from `from` to `end` after them; the same ones if there are none. */
function withRun(
  positions: Uint32Array<ArrayBuffer>,
  from: number,
  end: number,
): Uint32Array<ArrayBuffer> {
  if (end <= from) return positions;
  const { length } = positions;
  const all = new Uint32Array(length + end - from);
  all.set(positions);
  for (let i = length; i < all.length; i++) all[i] = from + i - length;
  return all;
}

/** How many of some ascending positions are below a limit. */
function countBelow(positions: Uint32Array, limit: number): number {
  let low = 0;
  let high = positions.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (positions[middle]! < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Lists the device rows of entries whose blocks have pages. */
function placeOnPages(
  rows: OffloadedRows,
  layer: number,
  positions: Uint32Array,
  list: Uint32Array,
  from: number,
  end: number,
): void {
  let block = -1;
  let row = 0;
  for (let i = from; i < end; i++) {
    const position = positions[i]!;
    if (Math.floor(position / BLOCK_ROWS) !== block) {
      block = Math.floor(position / BLOCK_ROWS);
      row = rows.pageOf(layer, block) * BLOCK_ROWS;
    }
    list[i] = row + position % BLOCK_ROWS;
  }
}

/**
 * From which block on lists may count on pages: for `steps` more rows if what gives way until then is
 * stored already, else as long as no further block gives way. Then the lists are to be made again.
 */
export function lastingBlocks(
  rows: OffloadedRows,
  layer: number,
  numRows: number,
  steps: number,
): number {
  const lasting = stableBlocks(rows, layer, numRows, steps);
  // A block is stored at the end of the step that makes it whole.
  const stored = Math.floor((numRows - 1) / BLOCK_ROWS);
  return lasting <= stored ? lasting : stableBlocks(rows, layer, numRows, 0);
}

/** The first block that keeps its page for `steps` more rows than `numRows`. */
export function stableBlocks(
  rows: OffloadedRows,
  layer: number,
  numRows: number,
  steps: number,
): number {
  const last = Math.ceil((numRows + steps) / BLOCK_ROWS);
  return Math.max(0, last - rows.sets[layer]!.windowBlocks);
}
