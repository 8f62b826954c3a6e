/** What replies say of their KV cache: names of the wire, and several sequences as one. @module */
import type { KvReport } from "./settings_types.ts";
import { wireSettings } from "./settings_wire.ts";

/** A report under the names of the wire: the `kv` object of a reply. */
export function wireReport(report: KvReport) {
  const { settings, rowsPerStep, bytesPerStep, residentShare, tiers, recall, notes } = report;
  const { interval, restless } = settings;
  return {
    ...wireSettings(settings),
    ...(interval === 1 || restless === undefined ? {} : { restless_layers: [...restless] }),
    rows_per_step: rowsPerStep,
    bytes_per_step: bytesPerStep,
    resident_share: residentShare,
    tiers: { device: tiers.device, host: tiers.host, disk: tiers.disk },
    ...(recall === null
      ? {}
      : { recall: { mass: recall.mass, overlap: recall.overlap, steps: recall.steps } }),
    ...(notes.length === 0 ? {} : { notes }),
  };
}

/** The report of one sequence and the decode steps that its means are over. */
export interface SequenceReport {
  readonly report: KvReport;
  readonly steps: number;
}

/**
 * The reports of several sequences as one: means over all their steps, tiers summed. The settings
 * are those of the first; where the policy of others differs (which depends on their length where
 * nobody named one) a note says so.
 *
 * @returns Null for none.
 */
export function combineReports(sequences: readonly SequenceReport[]): KvReport | null {
  const [first] = sequences;
  if (first === undefined) return null;
  if (sequences.length === 1) return first.report;
  const reports = sequences.map(({ report }) => report);
  const steps = sequences.map((sequence) => sequence.steps);
  const mean = (pick: (report: KvReport) => number) => meanOf(reports.map(pick), steps);
  const sum = (pick: (report: KvReport) => number) =>
    reports.reduce((total, report) => total + pick(report), 0);
  const measured = reports.flatMap(({ recall }) => recall ?? []);
  const measuredSteps = measured.map((recall) => recall.steps);
  const policies = [...new Set(reports.map(({ policy }) => policy))];
  const mixed = policies.length === 1
    ? []
    : [`the sequences of this reply have different policies: ${policies.join(", ")}`];
  return {
    ...first.report,
    rowsPerStep: mean((report) => report.rowsPerStep),
    bytesPerStep: mean((report) => report.bytesPerStep),
    residentShare: mean((report) => report.residentShare),
    tiers: {
      device: sum(({ tiers }) => tiers.device),
      host: sum(({ tiers }) => tiers.host),
      disk: sum(({ tiers }) => tiers.disk),
    },
    recall: measured.length === 0 ? null : {
      mass: meanOf(measured.map(({ mass }) => mass), measuredSteps),
      overlap: meanOf(measured.map(({ overlap }) => overlap), measuredSteps),
      steps: measuredSteps.reduce((total, count) => total + count, 0),
    },
    notes: [...mixed, ...new Set(reports.flatMap(({ notes }) => notes))],
  };
}

/** Weighted by steps; the plain mean where there was no step. */
function meanOf(values: readonly number[], steps: readonly number[]): number {
  const total = steps.reduce((sum, count) => sum + count, 0);
  if (total === 0) return values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((sum, value, i) => sum + value * (steps[i] ?? 0), 0) / total;
}
