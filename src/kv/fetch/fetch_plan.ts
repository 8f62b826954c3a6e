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

/** Rows of a selection, and from which row on they are attended as a window. */
export interface WantedRows {
  /** Ascending positions of rows that were chosen. */
  readonly picked: Uint32Array;
  /** All rows from here to the window are wanted too. */
  readonly from: number;
  /** First row that stays on the device as part of the window until the next selection. */
  readonly windowStart: number;
}

/**
 * Plans one KV head of one layer.
 *
 * @param stableFrom Blocks from here on keep their pages until the next selection.
 */
export function planHead(
  rows: OffloadedRows,
  layer: number,
  kvHead: number,
  { picked, from, windowStart }: WantedRows,
  stableFrom: number,
): HeadPlan {
  const count = picked.length + Math.max(0, windowStart - from);
  const wanted = new Uint32Array(count);
  wanted.set(picked);
  for (let i = picked.length; i < count; i++) wanted[i] = from + i - picked.length;
  const { prefixBlocks } = rows.sets[layer]!;
  const onPage = (position: number) => {
    const block = Math.floor(position / BLOCK_ROWS);
    return block < prefixBlocks || block >= stableFrom;
  };
  const list = new Uint32Array(count);
  const inSlots = new Uint32Array(count);
  const places = new Uint32Array(count);
  let numInSlots = 0;
  for (let i = 0; i < count; i++) {
    const position = wanted[i]!;
    if (!onPage(position)) {
      places[numInSlots] = i;
      inSlots[numInSlots++] = position;
      continue;
    }
    const page = rows.pageOf(layer, Math.floor(position / BLOCK_ROWS));
    list[i] = page * BLOCK_ROWS + position % BLOCK_ROWS;
  }
  const { slots, missing, numStreamed } = rows.slots(layer, kvHead).place(inSlots, 0, numInSlots);
  const streamed = new Uint32Array(numStreamed);
  const gone = numStreamed === 0 ? null : new Uint8Array(count);
  let numGone = 0;
  for (let j = 0; j < numInSlots; j++) {
    const slot = slots[j]!;
    if (slot === NO_SLOT) {
      streamed[numGone++] = inSlots[j]!;
      gone![places[j]!] = 1;
    } else list[places[j]!] = rows.rowOfSlot(layer, slot);
  }
  return {
    list: gone === null ? list : list.filter((_, i) => gone[i] === 0),
    positions: gone === null ? wanted : wanted.filter((_, i) => gone[i] === 0),
    missing: Uint32Array.from(missing, (j) => inSlots[j]!),
    targets: Uint32Array.from(missing, (j) => rows.rowOfSlot(layer, slots[j]!)),
    streamed,
  };
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
