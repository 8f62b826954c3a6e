import { withNeighbours } from "../../src/train/neighbours.ts";
import { neighboursReference } from "../reference/neighbours.ts";
import { assert, fc } from "std-testing";

Deno.test("neighbours that are measured are those that are fetched", () => {
  const rows = fc.uniqueArray(fc.integer({ min: 4, max: 99 }), { minLength: 1, maxLength: 40 });
  fc.assert(fc.property(rows, (chosen) => {
    const rising = chosen.toSorted((a, b) => a - b);
    const most = 2 * chosen.length;
    const got = [...withNeighbours(chosen, 100, most)].sort((a, b) => a - b);
    assert.deepEqual(got, neighboursReference(rising, 100, most));
  }));
  assert.deepEqual([...withNeighbours([], 100, 10)], []);
});
