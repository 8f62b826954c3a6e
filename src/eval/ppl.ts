/** Perplexity by policy and rows, as a multiple of dense attention's: cases, figures, results. @module */
import { resolveKv } from "../butler/settings.ts";
import type { KvModel, KvSituation } from "../butler/settings.ts";
import type { KvRequest, KvSettings, PolicyName } from "../butler/settings_types.ts";

/** One way of attending. */
export interface PplCase {
  readonly policy: PolicyName;
  /** Rows in all, sinks and window included; null: all rows. */
  readonly total: number | null;
  /** Of tokenbutler: whether budgets follow the predictor's table. */
  readonly table: boolean | null;
  readonly interval: number;
}

/** What was measured of a case over the windows of a text. */
export interface PplFigure extends PplCase {
  readonly text: string;
  /** Windows of the text that are to be scored. */
  readonly windows: number;
  /** Mean negative log-likelihood of each window so far, in nats; all have as many rows. */
  readonly nlls: readonly number[];
  /** Rows that were scored. */
  readonly rows: number;
  /** Mean negative log-likelihood in nats. */
  readonly nll: number;
}

/** The figure with one more window. */
export function withWindow(figure: PplFigure, scores: readonly number[]): PplFigure {
  const mean = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const nlls = [...figure.nlls, mean(scores)];
  return { ...figure, nlls, rows: figure.rows + scores.length, nll: mean(nlls) };
}

/** Whether all windows were scored. */
export function isWhole({ windows, nlls }: PplFigure): boolean {
  return nlls.length === windows;
}

/** Numbers of rows that all cases share. */
export interface PplRows {
  readonly sinks: number;
  readonly window: number;
}

/**
 * Every case of some policies, totals and intervals; dense first, once.
 *
 * @param tables For tokenbutler: with the table, without it, or both.
 */
export function pplCases(
  policies: readonly PolicyName[],
  totals: readonly number[],
  intervals: readonly number[],
  tables: readonly boolean[],
): PplCase[] {
  const others = policies.filter((policy) => policy !== "dense");
  return [
    { policy: "dense", total: null, table: null, interval: 1 },
    ...others.flatMap((policy) =>
      totals.flatMap((total) =>
        // What is chosen once, or never, does not know intervals.
        (policy === "snapkv" || policy === "streaming" ? [1] : intervals).flatMap((interval) =>
          (policy === "tokenbutler" ? tables : [null])
            .map((table) => ({ policy, total, table, interval }))
        )
      )
    ),
  ];
}

/**
 * What is asked for in a case: sinks, window, and what is left of the total. `streaming` has no
 * budget: its window takes the rest.
 */
export function requestOfCase(
  { policy, total, table, interval }: PplCase,
  { sinks, window }: PplRows,
): KvRequest {
  if (total === null) return { policy };
  if (policy === "streaming") return { policy, sinks, window: total - sinks };
  return {
    policy,
    sinks,
    window,
    budget: { rows: total - sinks - window },
    interval,
    ...(table === null ? {} : { table }),
  };
}

/**
 * Settings of a case.
 *
 * @throws {KvSettingsError} If the policy lacks what it needs.
 */
export function settingsOfCase(
  of: PplCase,
  rows: PplRows,
  model: KvModel,
  situation: KvSituation,
): KvSettings {
  return resolveKv(requestOfCase(of, rows), model, situation).settings;
}

/** Name of a case. */
export function caseName({ policy, table, interval }: PplCase): string {
  return policy + (table === false ? " (same B for all heads)" : "") +
    (interval === 1 ? "" : `, interval ${interval}`);
}

/** Whether two entries are of the same case and text. */
export function sameCase(a: PplCase, b: PplCase): boolean {
  return a.policy === b.policy && a.total === b.total && a.table === b.table &&
    a.interval === b.interval;
}

/** Perplexity of a figure over that of dense attention on the same text; null without the latter. */
export function timesDense(figure: PplFigure, figures: readonly PplFigure[]): number | null {
  const dense = figures.find(({ policy, text }) => policy === "dense" && text === figure.text);
  return dense === undefined ? null : Math.exp(figure.nll - dense.nll);
}
