/** Recipes that several policies share. @module */
import { budgetRows } from "../settings.ts";
import type { KvSettings } from "../settings_types.ts";
import type { StepRecipe } from "./types.ts";

/** B of each KV head of a layer. */
export function budgetsOf(settings: KvSettings, weights: readonly number[], n: number): number[] {
  const { budget, sinks, window } = settings;
  return weights.map((weight) => budgetRows(budget, weight, n, sinks, window));
}

/** Sinks, window, and the best of the rows between them. */
export function sinksWindowTop(
  settings: KvSettings,
  weights: readonly number[],
  n: number,
): StepRecipe | "all" {
  const { sinks, window } = settings;
  const prefix = Math.min(sinks, n);
  const windowStart = Math.max(prefix, n - window);
  const candidates = windowStart - prefix;
  const budgets = budgetsOf(settings, weights, n).map((rows) => Math.min(rows, candidates));
  if (budgets.every((rows) => rows === candidates)) return "all";
  return { prefix, windowStart, from: prefix, to: windowStart, unit: 1, budgets };
}

/** Rows that each KV head has in all: S + W + B. */
export function totalsOf(settings: KvSettings, weights: readonly number[], n: number): number[] {
  return budgetsOf(settings, weights, n).map((rows) => settings.sinks + settings.window + rows);
}

/** Whether every head's total reaches all rows. */
export function coversAll(totals: readonly number[], n: number): boolean {
  return totals.every((total) => total >= n);
}
