import type { BudgetTable } from "../../src/butler/budget_table.ts";
import { chosenShares, isWindowEnough } from "../../src/train/first_layer.ts";
import type { HeadMeasure } from "../../src/train/measure.ts";
import { MEASURED_COUNTS } from "../../src/train/settings.ts";
import { assert } from "std-testing";

/** A head with so much attention on sinks and window, whose first rows each add as much. */
function headOf(base: number, each: number): HeadMeasure {
  const added = MEASURED_COUNTS.map((count) => count * each);
  const none = {
    recall: 0,
    recentRecall: 0,
    best: added,
    mass: 0,
    bestMass: 0,
    rows: 1,
    kept: null,
  };
  return { ...none, base, added };
}

Deno.test("what chosen rows cover is the mean over heads, each with its budget", () => {
  const table: BudgetTable = {
    roles: ["window", "selected", "selected"],
    points: [
      { mean: 0.5, rows: [[0, 0], [0, 2], [0, 0]] },
      { mean: 8, rows: [[0, 0], [0, 12], [16, 4]] },
      { mean: 1024, rows: [[0, 0], [1024, 1024], [1024, 1024]] },
    ],
  };
  const heads = [headOf(0.5, 0.0001), headOf(0.4, 0.0002), headOf(0.3, 0.0003), headOf(0.4, 0)];
  const shares = chosenShares(table, heads);
  const wanted = [1.6 + 0.0004, 1.6 + 0.0024 + 0.0048, 1.6 + 0.6144].map((sum) => sum / 4);
  shares.forEach((share, i) => assert.ok(Math.abs(share - wanted[i]!) < 1e-12, `${shares}`));
});

Deno.test("a window is enough where it misses no more than chosen rows at any mean", () => {
  assert.ok(isWindowEnough({ window: [0.8, 0.9], chosen: [0.8, 0.85] }));
  assert.ok(!isWindowEnough({ window: [0.9, 0.84], chosen: [0.8, 0.85] }));
  assert.ok(!isWindowEnough({ window: [0.7, 1], chosen: [0.8, 0.85] }));
});
