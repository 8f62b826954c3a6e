/** Attention to everything, which all others are compared with. @module */
import type { Policy } from "./types.ts";

/** Every row. */
export const DENSE: Policy = {
  name: "dense",
  store: "none",
  scores: "none",
  once: false,
  recipe: () => "all",
};
