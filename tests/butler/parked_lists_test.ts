import { assert } from "std-testing";
import { parseLists } from "../../src/butler/parked_lists.ts";

Deno.test("parseLists() copies the lists of one sequence and layer", () => {
  const sizes = { numKvHeads: 2, listCapacity: 3 };
  // Counts of both heads, then their lists with room for three rows each.
  const words = Uint32Array.of(3, 1, 10, 20, 30, 5, 0, 0, 0, 2, 7, 7, 7, 8, 9, 7);
  const bytes = new Uint8Array(words.buffer);
  const first = parseLists({ sizes }, bytes, 0);
  const second = parseLists({ sizes }, bytes, 1);
  bytes.fill(0);
  assert.deepEqual(first.map((list) => [...list]), [[10, 20, 30], [5]]);
  assert.deepEqual(second.map((list) => [...list]), [[], [8, 9]]);
});
