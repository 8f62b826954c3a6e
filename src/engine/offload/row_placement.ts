/**
 * What a layer of a sequence below the device attends to: chosen rows get slots and are sent on their
 * way, lists and headers say what the slabs have, and what has no room passes through.
 *
 * @module
 */
import type { HeadLists } from "../../butler/parked_lists.ts";
import type { Selector } from "../../butler/selector.ts";
import { stepsKept } from "../../butler/settings.ts";
import {
  attendedRows,
  countedRole,
  type LayerView,
  type SelectedView,
} from "../../butler/slots.ts";
import { selectionHeader, SLIDING } from "../../gpu/ops/selection.ts";
import { type HeadPlan, lastingBlocks, planHead, stableBlocks } from "../../kv/fetch/fetch_plan.ts";
import { type OffloadedRows, requireOffloaded } from "../../kv/offloaded.ts";
import type { RowFetcher } from "../../kv/row_fetcher.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import type { TieredCache } from "../../kv/tiered_cache.ts";
import type { Forward } from "../forward.ts";
import type { Streamed } from "./stage_passes.ts";
import type { Submission } from "../submission.ts";

/** A row of a decode step whose sequence lies below the device. */
export interface OffloadedRow {
  /** Index in the step. */
  readonly row: number;
  readonly slot: number;
  /** Rows, the newest included. */
  readonly n: number;
}

/** What a row's step moved. */
export interface Moved {
  /** Bytes of keys and values that were sent to the device. */
  bytes: number;
  /** Rows that were wanted, over KV heads and the layers that count, and those that were there. */
  wanted: number;
  resident: number;
}

/** What {@linkcode RowPlacement} is made of. */
export interface RowPlacementOptions {
  readonly forward: Forward;
  readonly cache: TieredCache;
  readonly fetcher: RowFetcher;
}

const NOTHING: Streamed = { first: 0, end: 0, lists: [] };

/** Places rows, slot by slot and layer by layer. */
export class RowPlacement {
  readonly #options: RowPlacementOptions;
  /** By slot and layer: what passes through until the next selection. */
  readonly #streams = new Map<number, Streamed[]>();
  /** By slot and layer: the header that was written last; empty under that of a selection. */
  readonly #headers = new Map<number, string[]>();
  /** By slot and layer: the first block whose page the lists count on. */
  readonly #lasting = new Map<number, number[]>();
  readonly #moved = new Map<number, Moved>();
  /** Header and lists of a layer of a slot, on their way to the device. */
  #words = new Uint32Array(0);

  constructor(options: RowPlacementOptions) {
    this.#options = options;
  }

  /** Forgets a slot. */
  end(slot: number): void {
    this.#streams.delete(slot);
    this.#headers.delete(slot);
    this.#lasting.delete(slot);
    this.#moved.delete(slot);
  }

  /** A step begins in which nothing of a slot was moved yet. */
  begin(slot: number): void {
    this.#moved.set(slot, { bytes: 0, wanted: 0, resident: 0 });
  }

  /** What the newest step of a slot moved. */
  moved(slot: number): Moved {
    return this.#moved.get(slot) ?? { bytes: 0, wanted: 0, resident: 0 };
  }

  /** Whatever is sent meanwhile was moved by the newest step of a slot, also if it fails. */
  async sending(slot: number, send: () => Promise<void>): Promise<void> {
    const { traffic } = this.#options.cache.device;
    const before = traffic.came;
    try {
      await send();
    } finally {
      this.moved(slot).bytes += traffic.came - before;
    }
  }

  /** Whether a block has given way whose page the lists of a layer count on. */
  isOutdated(layer: number, { slot, n }: OffloadedRow): boolean {
    const lasting = this.#lasting.get(slot)?.[layer];
    return lasting !== undefined && stableBlocks(this.#rowsOf(slot), layer, n, 0) > lasting;
  }

  /** Brings the rows of lists that are used from now on. */
  placeUsed(
    submission: Submission,
    layer: number,
    row: OffloadedRow,
    lists: HeadLists,
    selector: Selector,
  ): void {
    const view = selector.view(row.slot)!;
    const used = view.layer(layer);
    if (used.kind !== "selected") return;
    // What is chosen once is placed again whenever a block gives way.
    const steps = view.policy.once ? 0 : stepsKept(view.settings, layer);
    this.place(submission, layer, row, lists, used, steps, selector);
  }

  /**
   * Sends what the device lacks of chosen rows on its way, and writes the lists.
   *
   * @param steps Steps after this one in which the rows may be attended to.
   */
  place(
    submission: Submission,
    layer: number,
    { slot, n }: OffloadedRow,
    lists: HeadLists,
    { recipe }: SelectedView,
    steps: number,
    selector: Selector,
  ): void {
    const { numKvHeads } = this.#options.forward.options.config;
    const { buffers } = selector;
    const { listCapacity } = buffers.sizes;
    const offloaded = this.#rowsOf(slot);
    const moved = this.#moved.get(slot)!;
    const { policy, settings } = selector.view(slot)!;
    const stable = lastingBlocks(offloaded, layer, n, steps);
    this.#layersOf(this.#lasting, slot, Infinity)[layer] = stable;
    // A window that slides is on the device as a whole, and no list may hold rows of it.
    const windowStart = policy.once
      ? recipe.windowStart
      : Math.min(n, Math.max(recipe.windowStart, stable * BLOCK_ROWS));
    const header = selectionHeader(numKvHeads);
    const out = this.#emptyWords(header + numKvHeads * listCapacity);
    const plans: HeadPlan[] = [];
    for (let head = 0; head < numKvHeads; head++) {
      const wanted = { picked: lists[head]!, from: recipe.windowStart, windowStart };
      const room = out.subarray(header + head * listCapacity);
      const plan = planHead(offloaded, layer, head, wanted, stable, room);
      plans.push(plan);
      const count = plan.list.length + plan.streamed.length;
      moved.wanted += count;
      moved.resident += count - plan.missing.length - plan.streamed.length;
      this.#options.fetcher.add(
        submission,
        offloaded.stored,
        layer,
        head,
        plan.missing,
        plan.targets,
      );
      moved.bytes += plan.missing.length * this.#options.fetcher.rowBytes;
    }
    const window = policy.once ? [SLIDING, settings.window] : [windowStart, 0];
    out.set([1, recipe.prefix, ...window, ...plans.map(({ list }) => list.length)]);
    // The lists are read by what is encoded from here on.
    submission.submit();
    buffers.writeSelection(layer, slot, out);
    this.#layersOf(this.#headers, slot, "")[layer] = "";
    if (selector.decode.accumulates(slot, layer)) {
      buffers.writeListed(layer, slot, plans.map(({ positions }) => positions));
    }
    const streamed = { first: 0, end: 0, lists: plans.map((plan) => plan.streamed) };
    this.#layersOf(this.#streams, slot, NOTHING)[layer] = streamed;
  }

  /** So many words, all 0, until the next call. */
  #emptyWords(count: number): Uint32Array<ArrayBuffer> {
    if (this.#words.length < count) this.#words = new Uint32Array(count);
    return this.#words.subarray(0, count).fill(0);
  }

  /** What a layer of a row streams, and its header where that follows from what is on the device. */
  layerStream(layer: number, row: OffloadedRow, selector: Selector): Streamed {
    const { settings } = selector.view(row.slot)!;
    const view = selector.view(row.slot)!.layer(layer);
    // Rows that were chosen are counted when they are placed.
    if (view.kind === "selected") return this.#streams.get(row.slot)?.[layer] ?? NOTHING;
    const streamed = this.#spanStream(layer, row, view, selector);
    if (settings.layers[layer]!.role === countedRole(settings)) {
      const moved = this.#moved.get(row.slot)!;
      const { numKvHeads } = this.#options.forward.options.config;
      const wanted = attendedRows(view, row.n);
      const passing = streamed.end - streamed.first + (streamed.lists[0]?.length ?? 0);
      moved.wanted += wanted * numKvHeads;
      moved.resident += (wanted - passing) * numKvHeads;
    }
    return streamed;
  }

  /** What of the first and the newest rows is not on the device. */
  #spanStream(
    layer: number,
    { slot, n }: OffloadedRow,
    view: Exclude<LayerView, SelectedView>,
    selector: Selector,
  ): Streamed {
    const spans = this.#rowsOf(slot).spans(layer);
    if (view.kind === "all") {
      if (spans.prefix >= spans.windowStart) {
        this.#header(slot, layer, [0, 0, 0, 0], selector);
        return NOTHING;
      }
      this.#header(slot, layer, [1, spans.prefix, spans.windowStart, 0], selector);
      return { first: spans.prefix, end: spans.windowStart, lists: [] };
    }
    const from = Math.max(view.prefix, n - view.windowRows);
    // The blocks of the sinks may reach into the window, and are not in the store before they are whole.
    const isWhole = spans.prefix >= spans.windowStart;
    const start = isWhole ? from : Math.max(from, spans.windowStart);
    this.#header(slot, layer, [1, view.prefix, start, 0], selector);
    if (from >= start) return NOTHING;
    // Whole blocks stream as blocks, the rows before them one by one.
    const first = Math.min(start, Math.ceil(from / BLOCK_ROWS) * BLOCK_ROWS);
    const head = Uint32Array.from({ length: first - from }, (_, i) => from + i);
    const { numKvHeads } = this.#options.forward.options.config;
    return { first, end: start, lists: new Array<Uint32Array>(numKvHeads).fill(head) };
  }

  #header(slot: number, layer: number, words: readonly number[], selector: Selector): void {
    const { numKvHeads } = this.#options.forward.options.config;
    const headers = this.#layersOf(this.#headers, slot, "");
    const key = words.join();
    if (headers[layer] === key) return;
    headers[layer] = key;
    const out = new Uint32Array(selectionHeader(numKvHeads));
    out.set(words);
    selector.buffers.writeSelection(layer, slot, out);
  }

  /** What is noted of a slot, by layer. */
  #layersOf<T>(slots: Map<number, T[]>, slot: number, none: T): T[] {
    const { numLayers } = this.#options.forward.options.config;
    let layers = slots.get(slot);
    if (layers === undefined) slots.set(slot, layers = new Array<T>(numLayers).fill(none));
    return layers;
  }

  #rowsOf(slot: number): OffloadedRows {
    return requireOffloaded(this.#options.cache, slot);
  }
}
