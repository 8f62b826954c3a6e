/** What selection knows of one sequence. @module */
import type { ScorerKind } from "./scorers/kinds.ts";
import type { SlotView } from "./slots.ts";

/** A sequence in a slot. */
export interface SlotSelection {
  readonly view: SlotView;
  readonly kind: ScorerKind | null;
  /** Rows whose importance is not written yet begin at `rows`; slots of one sequence share it. */
  readonly stored: { rows: number };
  /** The layers' windows slide from the step after the first selection on. */
  slidesNext: boolean;
}

/** The sequences that select, by slot. */
export type SlotSelections = ReadonlyMap<number, SlotSelection>;

/** What selection knows of a sequence without a slot. */
export interface ParkedSelection extends Disposable {
  readonly entry: SlotSelection;
  /** Of the importance store; null where nothing is kept, or once a slot has them again. */
  pages: Uint32Array | null;
}
