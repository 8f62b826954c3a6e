/** What is counted over the decode steps of a sequence, and what a reply says of it. Pure. @module */
import type { KvReport, KvSettings } from "../butler/settings_types.ts";
import { attendedRows, countedRole, type SlotView } from "../butler/slots.ts";
import { MOST_NEIGHBOUR_BUDGET } from "../gpu/ops/neighbours.ts";
import type { RecallSums } from "./recall_meter.ts";
import type { Moved } from "./offload/row_placement.ts";
import type { StepTotals } from "./runner_types.ts";

/** Sums over the steps so far. */
export interface Tally extends Moved {
  readonly settings: KvSettings;
  steps: number;
  rows: number;
  /** Bytes that exact scores had to read: keys, and the values that lie beside them. */
  scoring: number;
  readonly recall: RecallSums;
}

/** Sums over the steps of all sequences, whatever became of them. What tiers count is theirs. */
export type MovedTotals = {
  -readonly [Name in Exclude<keyof StepTotals, "moved">]: StepTotals[Name];
};

/** Of a sequence that has not decoded yet. */
export function newTally(settings: KvSettings): Tally {
  const moved = { bytes: 0, wanted: 0, resident: 0 };
  const recall = { mass: 0, heads: 0, overlap: 0, lists: 0, steps: 0 };
  return { settings, steps: 0, rows: 0, scoring: 0, ...moved, recall };
}

/** A step with `n` rows, the newest included: the rows that its {@linkcode countedRole} attends to. */
export function countStep(tally: Tally, view: SlotView, n: number): void {
  let sum = 0;
  let layers = 0;
  const counted = countedRole(tally.settings);
  tally.settings.layers.forEach(({ role }, layer) => {
    if (role !== counted) return;
    sum += attendedRows(view.layer(layer), n);
    layers++;
  });
  tally.steps++;
  tally.rows += sum / layers;
}

/** Adds what a step moved. */
export function addMoved(sums: Moved, { bytes, wanted, resident }: Moved): void {
  sums.bytes += bytes;
  sums.wanted += wanted;
  sums.resident += resident;
}

/** Whether it is the turn of a sequence's recall. */
export function isMeasured(tally: Tally | undefined): boolean {
  const every = tally?.settings.recallEvery ?? 0;
  return every > 0 && tally !== undefined && tally.steps % every === 0;
}

/**
 * What a reply says.
 *
 * @param grows Neighbours are fetched.
 */
export function reportOf(tally: Tally, tiers: KvReport["tiers"], grows: boolean): KvReport {
  const { settings, steps, rows, bytes, wanted, resident } = tally;
  return {
    policy: settings.policy,
    settings,
    rowsPerStep: steps === 0 ? 0 : rows / steps,
    bytesPerStep: steps === 0 ? 0 : bytes / steps,
    residentShare: wanted === 0 ? 1 : resident / wanted,
    tiers,
    recall: recallOf(tally.recall),
    notes: notesOf(tally, grows),
  };
}

function notesOf({ settings, scoring, steps }: Tally, grows: boolean): string[] {
  const notes: string[] = [];
  if (scoring > 0) {
    const bytes = Math.round(scoring / Math.max(1, steps));
    notes.push(`exact scores read ${bytes} bytes a step beside that`);
  }
  const selects = settings.layers.some(({ role }) => role === "selected");
  if (settings.neighbours && selects && !grows) {
    notes.push(
      "neighbours were not fetched: they are for oracle, loki and tokenbutler, and for heads that " +
        `choose up to ${MOST_NEIGHBOUR_BUDGET} rows`,
    );
  }
  return notes;
}

/** Means over what was measured; null if nothing was. */
function recallOf({ mass, heads, overlap, lists, steps }: RecallSums): KvReport["recall"] {
  if (steps === 0) return null;
  return {
    mass: heads === 0 ? 1 : mass / heads,
    overlap: lists === 0 ? 1 : overlap / lists,
    steps,
  };
}
