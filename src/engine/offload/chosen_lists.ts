/**
 * Lists of rows that a step below the device has chosen, on the host. What was chosen at once is read
 * at once, that of later layers too: it waits here until the step comes to them.
 *
 * @module
 */
import { copyLists, type HeadLists, listBytes, parseLists } from "../../butler/parked_lists.ts";
import type { Selector } from "../../butler/selector.ts";
import { GrowingReadback } from "../../gpu/growing_readback.ts";
import type { OffloadedRow } from "./row_placement.ts";
import type { Submission } from "../submission.ts";

/** Rows that were chosen in a layer. */
export interface ChosenRows {
  readonly row: OffloadedRow;
  readonly lists: HeadLists;
}

/** Lists of one step. */
export class ChosenLists implements Disposable {
  readonly #waiting = new Map<number, ChosenRows[]>();
  readonly #readback: GrowingReadback;

  constructor(device: GPUDevice, mode?: "sync" | "awaited") {
    this.#readback = new GrowingReadback(device, mode);
  }

  /**
   * Reads the lists of fresh selections that were made when the step came to a layer: one wait for
   * all of them.
   *
   * @returns Whether there were any; then the device has done all that was submitted.
   */
  async read(
    submission: Submission,
    layer: number,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): Promise<boolean> {
    const chosen = rows.flatMap((row) =>
      selector.decode.chosenAt(row.slot, layer).filter((of) => {
        const view = selector.view(row.slot)!.layer(of);
        return view.kind === "selected" && view.fresh;
      }).map((of) => ({ row, layer: of }))
    );
    if (chosen.length === 0) return false;
    const { buffers } = selector;
    const size = listBytes(buffers);
    const readback = await this.#readback.room(chosen.length * size);
    chosen.forEach(({ row, layer: of }, index) =>
      copyLists(submission, buffers, of, row.slot, readback.target, index * size)
    );
    submission.submit();
    const bytes = await readback.read(chosen.length * size);
    chosen.forEach(({ row, layer: of }, index) => {
      const waiting = this.#waiting.get(of) ?? [];
      waiting.push({ row, lists: parseLists(buffers, bytes, index) });
      this.#waiting.set(of, waiting);
    });
    return true;
  }

  /** Takes the lists of a layer that were read. */
  take(layer: number): readonly ChosenRows[] {
    const waiting = this.#waiting.get(layer) ?? [];
    this.#waiting.delete(layer);
    return waiting;
  }

  /** Forgets what a step left that was given up. */
  drop(): void {
    this.#waiting.clear();
  }

  [Symbol.dispose](): void {
    this.#readback[Symbol.dispose]();
  }
}
