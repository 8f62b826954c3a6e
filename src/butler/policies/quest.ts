/**
 * Quest (arXiv 2406.10774): pages of 16 rows, ranked by the largest q . k that their minima and
 * maxima allow. The page of the newest row is always one of those that are attended.
 *
 * @module
 */
import { coversAll, totalsOf } from "./common.ts";
import type { Policy } from "./types.ts";

/** Rows of a page. */
export const QUEST_PAGE = 16;

/** Pages that are kept at least. */
const LEAST_PAGES = 3;

/** Total / 16 pages; no sinks and no window of their own. */
export const QUEST: Policy = {
  name: "quest",
  store: "bounds",
  scores: "pages",
  once: false,
  recipe(settings, rows, n) {
    const totals = totalsOf(settings, rows);
    if (coversAll(totals, n)) return "all";
    const newest = Math.floor((n - 1) / QUEST_PAGE);
    const budgets = totals.map((total) => {
      const pages = Math.max(LEAST_PAGES, Math.floor(total / QUEST_PAGE));
      return Math.min(pages - 1, newest);
    });
    if (budgets.every((pages) => pages === newest)) return "all";
    return {
      prefix: 0,
      windowStart: newest * QUEST_PAGE,
      from: 0,
      to: newest,
      unit: QUEST_PAGE,
      budgets,
    };
  },
};
