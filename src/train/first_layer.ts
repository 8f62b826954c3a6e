/**
 * What the first layer, for which nothing is predicted, can be in a table of budgets: dense, or sinks
 * and a window as long as the others' rows in the mean.
 *
 * @module
 */
import type { BudgetTable } from "../butler/budget_table.ts";
import type { HeadMeasure } from "./measure.ts";
import { MEASURED_COUNTS } from "./settings.ts";

/** Parts of the attention at each mean of a table. */
export interface FirstLayerShares {
  /** That sinks and window of the first layer have. */
  readonly window: readonly number[];
  /** That the selected layers attend to with their budgets. */
  readonly chosen: readonly number[];
}

/** A window costs nothing where it misses no more than chosen rows do elsewhere, at every mean. */
export function isWindowEnough({ window, chosen }: FirstLayerShares): boolean {
  return window.every((share, i) => share >= chosen[i]!);
}

/**
 * Part of the attention that selected layers attend to, the mean over KV heads.
 *
 * @param heads (layers after the first, KV heads) in one list
 * @returns One for each point of the table.
 */
export function chosenShares({ points }: BudgetTable, heads: readonly HeadMeasure[]): number[] {
  return points.map(({ rows }) => {
    const budgets = rows.slice(1).flat();
    const sum = heads.reduce(
      (all, { base, added }, head) => all + base + addedAt(added, budgets[head]!),
      0,
    );
    return sum / heads.length;
  });
}

/** What so many rows add, between measured counts on a straight line. */
function addedAt(added: readonly number[], rows: number): number {
  let [before, sum] = [0, 0];
  for (const [i, count] of MEASURED_COUNTS.entries()) {
    if (rows <= count) return sum + (added[i]! - sum) * (rows - before) / (count - before);
    [before, sum] = [count, added[i]!];
  }
  return sum;
}
