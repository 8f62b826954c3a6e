/** Loki (arXiv 2406.02542): top-B in the leading principal components of the keys. @module */
import { sinksWindowTop } from "./common.ts";
import type { Policy } from "./types.ts";

/** Sinks, window, and the best of the rows between them by 16 components. */
export const LOKI: Policy = {
  name: "loki",
  store: "projected",
  scores: "projected",
  once: false,
  recipe: sinksWindowTop,
};
