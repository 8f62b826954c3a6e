/**
 * The ways of scoring candidates, each with its kernels and what it keeps of every row: one file for
 * each that has kernels of its own.
 *
 * @module
 */
import { createExactScorer } from "./exact.ts";
import type { ScorerKind } from "./kinds.ts";
import { createKit } from "./kit.ts";
import { createMassScorer } from "./mass.ts";
import { createPageScorer } from "./pages.ts";
import { createShortKeyScorer } from "./short_keys.ts";
import type { Scorer, ScorerBuffers, ScorerOptions, ScorerTables } from "./types.ts";

/** Compiles the kernels of a way of scoring and binds them. */
export async function createScorer(
  kind: ScorerKind,
  options: ScorerOptions,
  buffers: ScorerBuffers,
  tables: ScorerTables,
): Promise<Scorer> {
  const kit = await createKit(kind, options, buffers, tables);
  switch (kind) {
    case "projected":
    case "predicted":
      return await createShortKeyScorer(kit, kind);
    case "exact":
      return await createExactScorer(kit);
    case "pages":
      return await createPageScorer(kit);
    default:
      return await createMassScorer(kit, kind);
  }
}
