/**
 * SnapKV (arXiv 2404.14469): of the prompt the rows that its last rows attend to most, smoothed over
 * neighbours, chosen once; beside them the most recent rows, the observing ones among them. A row
 * that it once let go is never taken again. (It stays in the tiers; it is just not attended.)
 *
 * @module
 */
import { coversAll, totalsOf } from "./common.ts";
import type { Policy } from "./types.ts";

/** The prompt by the attention of its end, chosen once; and the newest rows. */
export const SNAPKV: Policy = {
  name: "snapkv",
  store: "mass",
  scores: "pooled",
  once: true,
  recipe(settings, rows, n) {
    const totals = totalsOf(settings, rows);
    if (coversAll(totals, n)) return "all";
    const windowStart = Math.max(0, n - settings.window);
    const budgets = totals.map((total) => Math.min(total - settings.window, windowStart));
    if (budgets.every((rows) => rows === windowStart)) return "all";
    return { prefix: 0, windowStart, from: 0, to: windowStart, unit: 1, budgets };
  },
};
