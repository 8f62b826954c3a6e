/** What selection keeps of the rows of a prompt, chunk by chunk. @module */
import { observedRows } from "./policies/observed.ts";
import { storePositions } from "./row_tables.ts";
import { keepsMass, SCORER_KINDS } from "./scorers/kinds.ts";
import type { ObservedKeys } from "./scorers/types.ts";
import type { SelectionResources } from "./selection_resources.ts";
import type { SlotSelection, SlotSelections } from "./slot_selection.ts";

/** Selection during prefill. */
export class PrefillSelection {
  readonly #slots: SlotSelections;
  readonly #resources: SelectionResources;
  /** Of the chunk: rows of its sequence with it. */
  #chunkEnd = 0;

  constructor(slots: SlotSelections, resources: SelectionResources) {
    this.#slots = slots;
    this.#resources = resources;
  }

  /**
   * Rows first .. first + count - 1 of a slot are being written by a prefill chunk.
   *
   * @param total Rows that are prefilled in all.
   */
  prepare(slot: number, first: number, count: number, total: number): boolean {
    const entry = this.#slots.get(slot);
    if (entry === undefined || entry.kind === null || entry.view.policy.store === "none") {
      return false;
    }
    this.#chunkEnd = first + count;
    if (keepsMass(entry.kind)) return this.#prepareObserved(slot, entry, first, count, total);
    const positions = storePositions(entry.kind, first, first + count);
    this.#resources.tables.writeStore(entry.kind, positions.map((position) => [slot, position]));
    entry.stored.rows = first + count;
    return true;
  }

  #prepareObserved(
    slot: number,
    { kind, view }: SlotSelection,
    first: number,
    count: number,
    total: number,
  ): boolean {
    const from = total - observedRows(view.policy, view.settings.window, total)!;
    this.#resources.tables.storeCounts[SCORER_KINDS.indexOf(kind!)] = 0;
    if (first + count <= from) return false;
    const rows = Array.from({ length: count }, (_, i) => [slot, first + i] as const);
    this.#resources.tables.writeStore(kind!, rows, from);
    return true;
  }

  /**
   * Whether the queries of the prefill chunk count in a layer: then its attention leaves the
   * logarithms of sums in {@linkcode SelectionResources.lse}, and {@linkcode encodeObserved} follows.
   */
  observes(slot: number, layer: number): boolean {
    const entry = this.#slots.get(slot);
    return entry?.kind != null && keepsMass(entry.kind) &&
      entry.view.settings.layers[layer]!.role === "selected";
  }

  /** Adds what the rows of the prefill chunk attend to in a layer. */
  encodeObserved(pass: GPUComputePassEncoder, slot: number, layer: number): void {
    const kind = this.#slots.get(slot)!.kind!;
    const index = SCORER_KINDS.indexOf(kind);
    const count = this.#resources.tables.storeCounts[index]!;
    const offset = this.#resources.storeOffset(index);
    this.#resources.scorer(kind).encodeObserved!(pass, layer, count, this.#chunkEnd, offset);
  }

  /** Adds what the rows of a prefill chunk attend to among some keys, which are in place. */
  observeKeys(
    pass: GPUComputePassEncoder,
    slot: number,
    layer: number,
    keys: ObservedKeys,
  ): void {
    const kind = this.#slots.get(slot)!.kind!;
    const index = SCORER_KINDS.indexOf(kind);
    const count = this.#resources.tables.storeCounts[index]!;
    const offset = this.#resources.storeOffset(index);
    this.#resources.scorer(kind).observeKeys!(pass, layer, count, keys, offset);
  }

  /** Writes what is kept of the rows of a prefill chunk in a layer. */
  encode(
    pass: GPUComputePassEncoder,
    slot: number,
    layer: number,
    from: "cache" | "chunk",
  ): void {
    const entry = this.#slots.get(slot);
    if (entry?.kind == null) return;
    if (entry.view.settings.layers[layer]!.role !== "selected") return;
    this.#resources.encodeStore(pass, entry.kind, layer, from);
  }
}
