/**
 * H2O (arXiv 2306.14048): half of the rows are those with the most attention summed over all queries
 * so far, half the most recent. A row that it once let go is never taken again. (It stays in the
 * tiers; it is just not attended.)
 *
 * @module
 */
import { coversAll, totalsOf } from "./common.ts";
import type { Policy } from "./types.ts";

/** Heavy hitters by accumulated attention, and the newest rows. */
export const H2O: Policy = {
  name: "h2o",
  store: "mass",
  scores: "mass",
  once: false,
  recipe(settings, rows, n) {
    const totals = totalsOf(settings, rows);
    if (coversAll(totals, n)) return "all";
    // The recent rows are the same for all heads of a layer, so they follow from the mean total.
    const mean = Math.floor(totals.reduce((sum, total) => sum + total, 0) / totals.length);
    const recent = Math.max(1, mean - Math.floor(mean / 2));
    const windowStart = Math.max(0, n - recent);
    const budgets = totals.map((total) => Math.min(Math.max(0, total - recent), windowStart));
    if (budgets.every((rows) => rows === windowStart)) return "all";
    return { prefix: 0, windowStart, from: 0, to: windowStart, unit: 1, budgets };
  },
};
