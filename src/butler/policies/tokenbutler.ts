/** TokenButler (arXiv 2503.07518): top-B by learned importance queries and projected keys. @module */
import { sinksWindowTop } from "./common.ts";
import type { Policy } from "./types.ts";

/** Sinks, window, and the best of the rows between them by what a predictor says. */
export const TOKENBUTLER: Policy = {
  name: "tokenbutler",
  store: "projected",
  scores: "predicted",
  once: false,
  recipe: sinksWindowTop,
};
