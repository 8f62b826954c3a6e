/**
 * Lists that layers choose by, of sequences below the device: read back when they are made, planned,
 * and their rows sent to the device; in the step that chose them, or while the next one computes.
 *
 * @module
 */
import type { ParkedLists } from "../../butler/parked_lists.ts";
import type { Selector } from "../../butler/selector.ts";
import { stepsKept } from "../../butler/settings.ts";
import type { RowFetcher } from "../../kv/row_fetcher.ts";
import type { Submission } from "../submission.ts";
import type { FetchAhead } from "./ahead.ts";
import type { ChosenLists } from "./chosen_lists.ts";
import type { OffloadedRow, RowPlacement } from "./row_placement.ts";
import type { RowWaits } from "./row_waits.ts";
import type { Transit } from "./transit.ts";

/** What {@linkcode ListFetch} is made of; its maker disposes of it. */
export interface ListFetchOptions {
  readonly chosen: ChosenLists;
  readonly ahead: FetchAhead;
  readonly placement: RowPlacement;
  readonly fetcher: RowFetcher;
  readonly transit: Transit;
  readonly waits: RowWaits;
  /** Told of rows that cannot be had: the slot's step counts for nothing, those beside it do. */
  readonly onFailure: (slot: number, error: unknown) => void;
}

/** Fetches what the device lacks of lists. */
export class ListFetch {
  readonly #options: ListFetchOptions;

  constructor(options: ListFetchOptions) {
    this.#options = options;
  }

  /** Before attention in a layer: the rows that it chose are on their way. */
  async prepareLayer(
    submission: Submission,
    layer: number,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): Promise<void> {
    const { chosen, transit, fetcher, waits } = this.#options;
    const before = { ...fetcher.work };
    this.#placeWaiting(submission, layer, selector);
    if (await chosen.read(submission, layer, rows, selector)) transit.arrived();
    this.#placeWaiting(submission, layer, selector);
    this.#placeAgain(submission, layer, rows, selector);
    if (fetcher.work.rows > before.rows) waits.add(fetcher.work.ms - before.ms);
  }

  /**
   * Lists may outlive the pages of the window: those of a selection that is made once, and others where
   * the window has no room for what comes until the next one. When a block gives way that they count
   * on, what lay in it needs a slot.
   */
  #placeAgain(
    submission: Submission,
    layer: number,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): void {
    const { placement, ahead, fetcher, onFailure } = this.#options;
    for (const row of rows) {
      const { slot } = row;
      if (!placement.isOutdated(layer, row)) continue;
      const used = selector.view(slot)!.layer(layer);
      const lists = ahead.used(slot, layer);
      if (lists === null || used.kind !== "selected" || used.fresh) continue;
      try {
        placement.placeUsed(submission, layer, row, lists, selector);
      } catch (error) {
        onFailure(slot, error);
      }
    }
    fetcher.send(submission);
  }

  /** Fetches what the device lacks of the lists of a layer that were read. */
  #placeWaiting(submission: Submission, layer: number, selector: Selector): void {
    const { chosen, placement, ahead, fetcher, onFailure } = this.#options;
    const due = chosen.take(layer);
    if (due.length === 0) return;
    // Layers before this one compute while the host plans and gathers.
    submission.submit();
    for (const { row, lists } of due) {
      const view = selector.view(row.slot)!;
      try {
        placement.placeUsed(submission, layer, row, lists, selector);
        const lasts = view.policy.once || stepsKept(view.settings, layer) > 0;
        if (lasts) ahead.begin(row.slot, layer, lists);
      } catch (error) {
        onFailure(row.slot, error);
      }
    }
    fetcher.send(submission);
  }

  /**
   * After the last submission of a decode step, before its end is waited for: fetches what the step
   * before chose. The device sees rows and lists after this step, so the next one uses them.
   *
   * @param hasFailed Whether a slot's step counts for nothing.
   */
  fetchAhead(
    submission: Submission,
    rows: readonly OffloadedRow[],
    selector: Selector,
    hasFailed: (slot: number) => boolean,
  ): void {
    const { placement, ahead, fetcher, onFailure } = this.#options;
    ahead.place(rows, (layer, row, { view, lists }) => {
      const { slot } = row;
      if (hasFailed(slot)) return;
      // The newest row is one step younger than the choice.
      const steps = stepsKept(selector.view(slot)!.settings, layer) - 1;
      try {
        placement.place(submission, layer, row, lists, view, steps, selector);
      } catch (error) {
        onFailure(slot, error);
      }
    });
    fetcher.send(submission);
    submission.submit();
  }

  /**
   * Brings the rows of lists that were parked back, for a slot that has `n` rows.
   *
   * @returns Bytes that were sent.
   * @throws {StoreReadError} If a row cannot be read.
   */
  placeParked(
    submission: Submission,
    slot: number,
    n: number,
    lists: ParkedLists,
    selector: Selector,
  ): number {
    const { placement, fetcher } = this.#options;
    placement.begin(slot);
    lists.forEach((heads, layer) => {
      if (heads !== null) {
        placement.placeUsed(submission, layer, { row: 0, slot, n }, heads, selector);
      }
    });
    fetcher.send(submission);
    return placement.moved(slot).bytes;
  }

  /** What a step left that was given up belongs to nobody. */
  drop(): void {
    this.#options.chosen.drop();
    this.#options.fetcher.drop();
  }
}
