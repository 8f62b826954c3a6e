import { assert, fc } from "std-testing";
import { greedyTable } from "../../src/butler/budget_curves.ts";
import { rowsAt } from "../../src/butler/budget_table.ts";

const flat = (rows: readonly (readonly number[])[]) => rows.flat();

/** Value of the concave hull of a curve that begins at nothing: the highest line between points. */
function hullAt(steps: readonly number[], mass: readonly number[], rows: number): number {
  const points = [[0, 0], ...steps.map((step, i) => [step, mass[i]!])] as [number, number][];
  let best = -Infinity;
  for (const [x0, y0] of points) {
    for (const [x1, y1] of points) {
      if (x0 > rows || x1 < rows) continue;
      best = Math.max(best, x0 === x1 ? y0 : y0 + (rows - x0) / (x1 - x0) * (y1 - y0));
    }
  }
  return best;
}

/** The largest sum over all ways to give `total` rows to the heads. */
function bestOf(values: readonly (readonly number[])[], total: number): number {
  let best = [0, ...new Array<number>(total).fill(-Infinity)];
  for (const value of values) {
    best = best.map((_, sum) =>
      value.reduce(
        (most, own, rows) => rows > sum ? most : Math.max(most, own + best[sum - rows]!),
        -Infinity,
      )
    );
  }
  return best[total]!;
}

Deno.test("greedyTable() gives rows to where they add the most", () => {
  const table = greedyTable(
    {
      roles: ["window", "selected", "selected"],
      mass: [[], [[0.4, 0.5, 0.5], [0.2, 0.4, 0.8]], [[0.01, 0.02, 0.03], [0, 0, 0]]],
    },
    [4, 8, 16],
    [1, 3, 6, 16],
  );
  assert.deepEqual(table.roles, ["window", "selected", "selected"]);
  assert.deepEqual(table.points.map(({ rows }) => rows), [
    // 0.1 a row, then 0.05 a row all the way.
    [[0, 0], [4, 0], [0, 0]],
    [[0, 0], [4, 8], [0, 0]],
    [[0, 0], [8, 16], [0, 0]],
    [[0, 0], [16, 16], [16, 16]],
  ]);
});

Deno.test("greedyTable() is as good as the best of all ways to share rows out", () => {
  const steps = [1, 2, 4, 8];
  const mass = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 4, maxLength: 4 });
  // Curves that rise, mostly, and some that are noise.
  const rising = mass.map((gains) => {
    let sum = 0;
    return gains.map((gain) => sum += gain);
  });
  const curves = fc.array(fc.array(fc.oneof(rising, mass), { minLength: 2, maxLength: 2 }), {
    minLength: 2,
    maxLength: 2,
  });
  const means = fc.uniqueArray(fc.integer({ min: 1, max: 32 }), { minLength: 1, maxLength: 3 })
    .map((quarters) => quarters.sort((a, b) => a - b).map((quarter) => quarter / 4));
  fc.assert(
    fc.property(curves, means, (mass, means) => {
      const table = greedyTable({ roles: ["selected", "selected"], mass }, steps, means);
      let before = [0, 0, 0, 0];
      for (const { mean, rows } of table.points) {
        const heads = mass.flat();
        const total = flat(rows).reduce((sum, count) => sum + count, 0);
        assert.equal(total, mean * 4);
        const hulls = heads.map((curve) =>
          Array.from({ length: 9 }, (_, rows) => hullAt(steps, curve, rows))
        );
        const value = flat(rows).reduce((sum, count, head) => sum + hulls[head]![count]!, 0);
        assert.ok(Math.abs(value - bestOf(hulls, total)) < 1e-9);
        // And so at least as good as any way that keeps to the steps, by the curves themselves.
        const stepwise = heads.map((curve) =>
          Array.from(
            { length: 9 },
            (_, rows) => rows === 0 ? 0 : curve[steps.indexOf(rows)] ?? -Infinity,
          )
        );
        assert.ok(value >= bestOf(stepwise, total) - 1e-9);
        flat(rows).forEach((count, head) => assert.ok(count >= before[head]! && count <= 8));
        before = flat(rows);
        assert.deepEqual(rowsAt(table, mean), rows);
      }
    }),
    { numRuns: 500 },
  );
});

Deno.test("greedyTable() gives every head its even part, and the rest to where it adds the most", () => {
  const roles = ["window", "selected", "selected"] as const;
  const mass = [[], [[0.4, 0.5, 0.5], [0.2, 0.4, 0.8]], [[0.01, 0.02, 0.03], [0, 0, 0]]];
  const rowsOf = (even: number) =>
    greedyTable({ roles, mass }, [4, 8, 16], [4, 8, 16], even).points.map(({ rows }) => rows);
  assert.deepEqual(rowsOf(0.5), [
    // Of the first head two rows of the four that add 0.1 each are left, then come those of 0.05.
    [[0, 0], [4, 8], [2, 2]],
    [[0, 0], [8, 16], [4, 4]],
    [[0, 0], [16, 16], [16, 16]],
  ]);
  assert.deepEqual(rowsOf(1), [4, 8, 16].map((rows) => [[0, 0], [rows, rows], [rows, rows]]));
  assert.throws(() => rowsOf(1.5), /a part must be from 0 to 1, not 1.5/);

  const curve = fc.array(fc.double({ min: -1, max: 1, noNaN: true }), {
    minLength: 4,
    maxLength: 4,
  });
  const curves = fc.array(fc.array(curve, { minLength: 2, maxLength: 2 }), {
    minLength: 2,
    maxLength: 2,
  });
  const means = [2, 6, 12, 16];
  fc.assert(fc.property(curves, fc.double({ min: 0, max: 0.5, noNaN: true }), (mass, even) => {
    const table = greedyTable(
      { roles: ["selected", "selected"], mass },
      [2, 4, 8, 16],
      means,
      even,
    );
    let before = [0, 0, 0, 0];
    for (const { mean, rows } of table.points) {
      assert.equal(flat(rows).reduce((sum, count) => sum + count, 0), mean * 4);
      flat(rows).forEach((count, head) => {
        assert.ok(count >= Math.floor(mean * even) && count >= before[head]! && count <= 16);
      });
      before = flat(rows);
    }
  }));
});

Deno.test("greedyTable() refuses curves that do not fit", () => {
  const make = (mass: number[][][], steps: number[], means: number[]) => () =>
    greedyTable({ roles: ["selected"], mass }, steps, means);
  make([[[1, 2]]], [1, 2], [2])();
  assert.throws(make([[[1]]], [1, 2], [1]), /curve of layer 0, KV head 0 must have 2 numbers/);
  assert.throws(make([[[1, NaN]]], [1, 2], [1]), RangeError);
  assert.throws(make([[[1, 2]]], [2, 1], [1]), /steps must be whole numbers that ascend/);
  assert.throws(make([[[1, 2]]], [1, 1.5], [1]), RangeError);
  assert.throws(make([[[1, 2]]], [1, 2], [2, 1]), /means must ascend/);
  assert.throws(make([[[1, 2]]], [1, 2], [3]), /up to the last step, not 3/);
  assert.throws(make([[[1, 2]]], [1, 2], []), RangeError);
  assert.throws(
    () => greedyTable({ roles: ["dense"], mass: [[[1]]] }, [1], [1]),
    /no layer is selected/,
  );
});
