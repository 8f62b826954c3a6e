/** The true top-B by q . k. @module */
import { sinksWindowTop } from "./common.ts";
import type { Policy } from "./types.ts";

/** What any predictor of importance can reach at most. */
export const ORACLE: Policy = {
  name: "oracle",
  store: "none",
  scores: "exact",
  once: false,
  recipe: sinksWindowTop,
};
