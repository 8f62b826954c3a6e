/** Recipes that several policies share. @module */
import type { KvSettings } from "../settings_types.ts";
import type { StepRecipe } from "./types.ts";

/** Sinks, window, and the best of the rows between them. */
export function sinksWindowTop(
  settings: KvSettings,
  budgets: readonly number[],
  n: number,
): StepRecipe | "all" {
  const { sinks, window } = settings;
  const prefix = Math.min(sinks, n);
  const windowStart = Math.max(prefix, n - window);
  const candidates = windowStart - prefix;
  const chosen = budgets.map((rows) => Math.min(rows, candidates));
  if (chosen.every((rows) => rows === candidates)) return "all";
  return { prefix, windowStart, from: prefix, to: windowStart, unit: 1, budgets: chosen };
}

/** Rows that each KV head has in all: S + W + B. */
export function totalsOf({ sinks, window }: KvSettings, budgets: readonly number[]): number[] {
  return budgets.map((rows) => sinks + window + rows);
}

/** Whether every head's total reaches all rows. */
export function coversAll(totals: readonly number[], n: number): boolean {
  return totals.every((total) => total >= n);
}

/**
 * Sinks and the `window` most recent rows.
 *
 * @param numKvHeads Length of the budgets, which are all 0.
 */
export function windowRecipe(
  sinks: number,
  window: number,
  numKvHeads: number,
  n: number,
): StepRecipe | "all" {
  const prefix = Math.min(sinks, n);
  const windowStart = Math.max(prefix, n - window);
  if (windowStart === prefix) return "all";
  const budgets = new Array<number>(numKvHeads).fill(0);
  return { prefix, windowStart, from: prefix, to: prefix, unit: 1, budgets };
}
