/**
 * What is said of sequences that attend to all their rows, which lie on the device as a whole:
 * nothing is selected, and nothing travels but what was parked, so there is little to count.
 *
 * @module
 */
import type { KvReport, KvSettings } from "../butler/settings_types.ts";

/** Decode steps of a sequence so far. */
export interface DenseTally {
  readonly settings: KvSettings;
  steps: number;
  /** Attended rows, summed over the steps. */
  rows: number;
  /** Bytes of keys and values that came back after parking. */
  bytes: number;
}

/** By slot. */
export class DenseReports {
  readonly #tallies = new Map<number, DenseTally>();
  readonly #totals: { bytes: number };

  /** @param totals Gets what comes back after parking, of all sequences. */
  constructor(totals: { bytes: number }) {
    this.#totals = totals;
  }

  /** A sequence begins in a slot. */
  begin(slot: number, settings: KvSettings): void {
    this.#tallies.set(slot, { settings, steps: 0, rows: 0, bytes: 0 });
  }

  /** It goes on there, after so many bytes of its rows were sent; before its first step none count. */
  resume(slot: number, parked: DenseTally, sent: number): void {
    if (parked.steps > 0) {
      parked.bytes += sent;
      this.#totals.bytes += sent;
    }
    this.#tallies.set(slot, parked);
  }

  /** What a slot counted, to go on with; null where something else counts. */
  tally(slot: number): DenseTally | null {
    return this.#tallies.get(slot) ?? null;
  }

  end(slot: number): void {
    this.#tallies.delete(slot);
  }

  /** After a decode step in which a slot attended to `numRows` rows. */
  add(slot: number, numRows: number): void {
    const tally = this.#tallies.get(slot);
    if (tally === undefined) return;
    tally.steps++;
    tally.rows += numRows;
  }

  /** Null where something else reports. */
  report(slot: number, tiers: () => KvReport["tiers"]): KvReport | null {
    const tally = this.#tallies.get(slot);
    if (tally === undefined) return null;
    const { settings, steps, rows, bytes } = tally;
    return {
      policy: settings.policy,
      settings,
      rowsPerStep: steps === 0 ? 0 : rows / steps,
      bytesPerStep: steps === 0 ? 0 : bytes / steps,
      residentShare: 1,
      tiers: tiers(),
      recall: null,
      notes: [],
    };
  }
}
