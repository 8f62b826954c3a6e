/**
 * Policies that rank rows by the attention they have received, and never take a row again that they
 * once let go. (The rows stay in the tiers; they are just not attended.)
 *
 * @module
 */
import { coversAll, totalsOf } from "./common.ts";
import type { Policy } from "./types.ts";

/** Rows of the prompt's end whose attention SnapKV looks at; a smaller window has fewer. */
export const SNAPKV_OBSERVERS = 32;

/**
 * Prompt rows whose attention counts: the newest ones of the rows that are prefilled in all. Null for
 * policies that keep no attention.
 *
 * @param window Rows of the window, in which those of `snapkv` lie.
 */
export function observedRows(policy: Policy, window: number, total: number): number | null {
  if (policy.store !== "mass") return null;
  return policy.once ? Math.min(SNAPKV_OBSERVERS, window, total) : total;
}

/**
 * H2O (arXiv 2306.14048): half of the rows are those with the most attention summed over all queries
 * so far, half the most recent.
 */
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

/**
 * SnapKV (arXiv 2404.14469): of the prompt the rows that its last rows attend to most, smoothed over
 * neighbours, chosen once; beside them the most recent rows, the observing ones among them.
 */
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
