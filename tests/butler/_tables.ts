/** Tables of budgets for tests. @module */
import { fc } from "std-testing";
import type { BudgetTable } from "../../src/butler/budget_table.ts";
import type { LayerRole } from "../../src/butler/settings.ts";

/** A table from its roles and the rows at each point; the means follow. */
export function tableOf(
  roles: readonly LayerRole[],
  points: readonly (readonly (readonly number[])[])[],
): BudgetTable {
  const heads = roles.filter((role) => role === "selected").length * points[0]![0]!.length;
  return {
    roles,
    points: points.map((rows) => ({
      mean: rows.flat().reduce((sum, count) => sum + count, 0) / heads,
      rows,
    })),
  };
}

/**
 * Any table of so many layers and KV heads: roles, heads that get nothing, heads that get much,
 * layers that are restless.
 */
export function anyTable(numLayers: number, numKvHeads: number): fc.Arbitrary<BudgetTable> {
  // Nothing is predicted for the first layer.
  const first = fc.constantFrom<LayerRole[]>("dense", "window");
  const role = fc.constantFrom<LayerRole[]>("dense", "window", "selected", "selected");
  const more = fc.oneof(
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 20 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 400 }) },
    { weight: 1, arbitrary: fc.constant(0) },
  );
  const count = { minLength: numLayers * numKvHeads, maxLength: numLayers * numKvHeads };
  return fc.record({
    roles: fc.tuple(first, ...Array.from({ length: numLayers - 1 }, () => role)),
    steps: fc.array(fc.array(more, count), { minLength: 1, maxLength: 4 }),
    restless: fc.option(fc.subarray(Array.from({ length: numLayers }, (_, layer) => layer))),
  }).map(({ roles, steps, restless }) => {
    const some = roles.includes("selected") ? roles : [...roles.slice(0, -1), "selected" as const];
    const last = some.lastIndexOf("selected") * numKvHeads;
    const rows = new Array<number>(numLayers * numKvHeads).fill(0);
    const chosen = restless?.filter((layer) => some[layer] === "selected");
    const table = tableOf(
      some,
      steps.map((added) => {
        added.forEach((count, i) => {
          if (some[Math.floor(i / numKvHeads)] === "selected") rows[i]! += count;
        });
        // Means go up.
        rows[last]!++;
        return some.map((_, layer) => rows.slice(layer * numKvHeads, (layer + 1) * numKvHeads));
      }),
    );
    return chosen === undefined ? table : { ...table, restless: chosen };
  });
}
