import { assert, fc } from "std-testing";
import {
  BudgetTableError,
  formatBudgetTable,
  parseBudgetTable,
} from "../../src/butler/budget_json.ts";
import { anyTable, tableOf } from "./_tables.ts";

const SHAPE = { numLayers: 3, numKvHeads: 2 };
const TABLE = tableOf(["window", "selected", "selected"], [
  [[0, 0], [10, 0], [4, 6]],
  [[0, 0], [10, 40], [4, 106]],
]);

/** The table's JSON with another value at a path; undefined takes it away. */
function change(path: readonly (string | number)[], value: unknown): unknown {
  const json: unknown = JSON.parse(JSON.stringify(TABLE));
  let at = json as Record<string | number, unknown>;
  for (const step of path.slice(0, -1)) at = at[step] as typeof at;
  at[path.at(-1)!] = value;
  return json;
}

Deno.test("formatBudgetTable() writes what parseBudgetTable() reads", () => {
  fc.assert(fc.property(anyTable(3, 2), (table) => {
    const json: unknown = JSON.parse(JSON.stringify(formatBudgetTable(table)));
    assert.deepEqual(parseBudgetTable(json, SHAPE), table);
  }));
});

Deno.test("parseBudgetTable() says what is wrong and where", () => {
  for (
    const [json, message] of [
      [null, /^the budget table must be an object with roles and points$/],
      [[], /^the budget table must be an object/],
      [{ roles: [] }, /^points of the budget table must be a list$/],
      [change(["more"], 1), /^the budget table must not have the member "more"$/],
      [change(["roles", 1], "dens"), /^roles\[1\] of .* must be one of dense, window, selected$/],
      [
        change(["roles", 0], "selected"),
        /^roles\[0\] .* must be dense or window: nothing predicts/,
      ],
      [change(["roles"], ["selected"]), /^roles .* must have 3 entries, one for each layer/],
      [change(["roles"], ["dense", "dense", "window"]), /^roles .* have a layer that is selected$/],
      [change(["points"], []), /^points .* must have 1 to 64 entries, not 0$/],
      [change(["points", 0], 5), /^points\[0\] .* an object with mean and rows$/],
      [change(["points", 0, "rows"], 5), /^points\[0\]\.rows .* must be a list$/],
      [change(["points", 1, "rows"], [[1, 1]]), /^points\[1\]\.rows .* one for each layer/],
      [
        change(["points", 1, "rows", 2], [1]),
        /rows\[2\] .* one for each KV head of the model, not 1$/,
      ],
      [change(["points", 0, "rows", 1, 0], -1), /rows\[1\]\[0\] .* a whole number of rows from 0/],
      [change(["points", 0, "rows", 1, 0], 1.5), /rows\[1\]\[0\] .* a whole number of rows from 0/],
      [change(["points", 0, "rows", 1, 0], "1"), /rows\[1\]\[0\] .* a whole number of rows from 0/],
      [
        change(["points", 0, "rows", 0, 1], 1),
        /rows\[0\] .* must be zeros, for the layer is window$/,
      ],
      [change(["points", 1, "rows", 1, 0], 9), /rows\[1\]\[0\] .* the mean before, 10, but is 9$/],
      [change(["points", 1, "mean"], 41), /mean .* be the mean of its 4 heads, 40, but is 41$/],
      [change(["points", 1, "mean"], 5), /mean .* be more than the mean before, 5, but is 5$/],
      [change(["points", 0, "mean"], "5"), /^points\[0\]\.mean .* must be a number$/],
      [change(["restless"], 1), /^restless .* must be a list$/],
      [change(["restless"], [1.5]), /^restless\[0\] .* must be the index of a layer$/],
      [change(["restless"], [0]), /^restless\[0\] .* must be a layer that is selected, not 0$/],
      [change(["restless"], [3]), /^restless\[0\] .* must be a layer that is selected, not 3$/],
      [change(["restless"], [2, 1]), /^restless\[1\] .* must come after the layer before it$/],
    ] as const
  ) {
    assert.throws(() => parseBudgetTable(json, SHAPE), (error) => {
      assert.ok(error instanceof BudgetTableError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
  const nothing = { roles: ["window", "selected"], points: [{ mean: 0, rows: [[0], [0]] }] };
  assert.throws(
    () => parseBudgetTable(nothing, { numLayers: 2, numKvHeads: 1 }),
    /must be more than 0, but is 0$/,
  );
});
