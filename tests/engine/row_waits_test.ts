import { RowWaits } from "../../src/engine/offload/row_waits.ts";
import { assert } from "std-testing";

Deno.test("a step counts once, however often and in vain it waits", () => {
  const sums = { waitedMs: 0, waitedSteps: 0 };
  const waits = new RowWaits(sums);
  waits.begin();
  assert.deepEqual(sums, { waitedMs: 0, waitedSteps: 0 });
  waits.begin();
  waits.add(2);
  waits.add(3);
  assert.deepEqual(sums, { waitedMs: 5, waitedSteps: 1 });
  waits.begin();
  assert.equal(waits.during(() => 7), 7);
  assert.throws(() =>
    waits.during(() => {
      const until = performance.now() + 2;
      while (performance.now() < until);
      throw new Error("cannot be read");
    }), /cannot be read/);
  assert.equal(sums.waitedSteps, 2);
  assert.ok(sums.waitedMs >= 7);
});
