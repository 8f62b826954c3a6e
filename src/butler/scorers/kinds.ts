/** Names of the ways of scoring, and what they are to the kernels. @module */
import { LIST_MODES, ROW_KEEPS } from "../../gpu/ops/list_params.ts";

/** Order of the recipes of a slot. */
export const SCORER_KINDS = [
  "projected",
  "exact",
  "pages",
  "mass",
  "pooled",
  "predicted",
] as const;

/** A way of scoring. */
export type ScorerKind = typeof SCORER_KINDS[number];

/** The mode of its recipes, and the bit of the rows that it keeps things of. */
export const SCORER_WORDS: Readonly<Record<ScorerKind, { mode: number; keeps: number }>> = {
  projected: { mode: LIST_MODES.projected, keeps: ROW_KEEPS.key },
  exact: { mode: LIST_MODES.exact, keeps: 0 },
  pages: { mode: LIST_MODES.pages, keeps: ROW_KEEPS.bounds },
  mass: { mode: LIST_MODES.mass, keeps: ROW_KEEPS.mass },
  pooled: { mode: LIST_MODES.mass, keeps: ROW_KEEPS.mass },
  predicted: { mode: LIST_MODES.projected, keeps: ROW_KEEPS.key },
};

/** Whether it goes by the attention that rows have received. */
export function keepsMass(kind: ScorerKind): boolean {
  return SCORER_WORDS[kind].keeps === ROW_KEEPS.mass;
}
