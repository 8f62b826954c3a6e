/**
 * Policies that keep sinks and window and rank the rows between them; they differ in the scores.
 *
 * @module
 */
import { sinksWindowTop } from "./common.ts";
import type { Policy } from "./types.ts";

/** The true top-B by q . k: what any predictor of importance can reach at most. */
export const ORACLE: Policy = {
  name: "oracle",
  store: "none",
  scores: "exact",
  once: false,
  recipe: sinksWindowTop,
};

/** Top-B in the leading principal components of the keys (Loki, arXiv 2406.02542). */
export const LOKI: Policy = {
  name: "loki",
  store: "projected",
  scores: "projected",
  once: false,
  recipe: sinksWindowTop,
};

/** Top-B by learned importance queries and projected keys (TokenButler, arXiv 2503.07518). */
export const TOKENBUTLER: Policy = {
  name: "tokenbutler",
  store: "projected",
  scores: "predicted",
  once: false,
  recipe: sinksWindowTop,
};
