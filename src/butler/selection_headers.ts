/**
 * What the host writes into the selections of slots: headers that hold until something is selected,
 * windows that slide, and lists that come back. Other lists are made on the device.
 *
 * @module
 */
import { PAGE_ROWS } from "../gpu/ops/list_params.ts";
import { selectionHeader, SLIDING } from "../gpu/ops/selection.ts";
import type { HeadLists } from "./parked_lists.ts";
import type { SelectionBuffers } from "./selection_buffers.ts";
import type { KvSettings } from "./settings_types.ts";
import type { SelectedView, SlotView } from "./slots.ts";

/** Headers that hold until something is selected. */
export function writeHeaders(buffers: SelectionBuffers, slot: number, settings: KvSettings): void {
  const { window, sinks } = settings;
  settings.layers.forEach(({ role }, layer) => {
    const words = new Uint32Array(selectionHeader(buffers.sizes.numKvHeads));
    if (role === "window") {
      const extra = "rows" in settings.budget ? settings.budget.rows : 0;
      words.set([1, sinks, SLIDING, window + extra]);
    }
    buffers.writeSelection(layer, slot, words);
  });
}

/** From the second step on the windows of a selection that is made once slide. */
export function writeSliding(buffers: SelectionBuffers, slot: number, view: SlotView): void {
  const { settings } = view;
  settings.layers.forEach(({ role }, layer) => {
    const used = view.layer(layer);
    if (role !== "selected" || used.kind !== "selected") return;
    const words = Uint32Array.of(1, used.recipe.prefix, SLIDING, settings.window);
    buffers.writeSelection(layer, slot, words);
  });
}

/**
 * Writes lists that were parked, for a slot whose rows are all on the device.
 *
 * @param window First row of the window, and its rows where it slides.
 * @param pageOf Page of a block.
 */
export function writeParked(
  buffers: SelectionBuffers,
  layer: number,
  slot: number,
  heads: HeadLists,
  { recipe }: SelectedView,
  window: readonly [start: number, rows: number],
  pageOf: (block: number) => number,
): void {
  const { numKvHeads, listCapacity } = buffers.sizes;
  const header = selectionHeader(numKvHeads);
  const out = new Uint32Array(header + numKvHeads * listCapacity);
  out.set([1, recipe.prefix, ...window, ...heads.map(({ length }) => length)]);
  heads.forEach((list, head) =>
    list.forEach((position, i) => {
      const page = pageOf(Math.floor(position / PAGE_ROWS));
      out[header + head * listCapacity + i] = page * PAGE_ROWS + position % PAGE_ROWS;
    })
  );
  buffers.writeSelection(layer, slot, out);
}
