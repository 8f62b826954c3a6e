/** The budgets of a predictor's heads, from what was measured on held-out windows. @module */
import { greedyTable } from "../butler/budget_curves.ts";
import type { BudgetTable } from "../butler/budget_table.ts";
import type { LayerRole } from "../butler/settings_types.ts";
import type { HeadMeasure } from "./measure.ts";
import { MEASURED_COUNTS, TABLE_MEANS } from "./settings.ts";

/**
 * Shares rows out among the heads by the attention that their curves say each row adds.
 *
 * @param heads (layers after the first, KV heads) in one list.
 * @param first Role of the layer that has no predictor.
 */
export function budgetsOf(
  heads: readonly HeadMeasure[],
  numKvHeads: number,
  first: LayerRole,
): BudgetTable {
  const numLayers = 1 + heads.length / numKvHeads;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer);
  return greedyTable(
    {
      roles: layers.map((layer) => layer === 0 ? first : "selected"),
      mass: layers.map((layer) =>
        Array.from(
          { length: numKvHeads },
          (_, head) => layer === 0 ? [] : heads[(layer - 1) * numKvHeads + head]!.added,
        )
      ),
    },
    MEASURED_COUNTS,
    TABLE_MEANS,
  );
}
