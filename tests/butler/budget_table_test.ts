import { assert, fc } from "std-testing";
import {
  numDenseLayers,
  numSelectedHeads,
  rowsAt,
  withDenseLayers,
} from "../../src/butler/budget_table.ts";
import { anyTable, tableOf } from "./_tables.ts";

const TABLE = tableOf(["window", "selected", "selected"], [
  [[0, 0], [10, 0], [4, 6]],
  [[0, 0], [10, 40], [4, 106]],
]);
const anything = anyTable(4, 3);
const total = (rows: readonly (readonly number[])[]) => rows.flat().reduce((sum, x) => sum + x, 0);

Deno.test("rowsAt() follows the points in straight lines, from zero and beyond the last", () => {
  assert.deepEqual(TABLE.points.map(({ mean }) => mean), [5, 40]);
  assert.deepEqual(rowsAt(TABLE, 0), [[0, 0], [0, 0], [0, 0]]);
  assert.deepEqual(rowsAt(TABLE, 2.5), [[0, 0], [5, 0], [2, 3]]);
  assert.deepEqual(rowsAt(TABLE, 5), [[0, 0], [10, 0], [4, 6]]);
  // Half of the way.
  assert.deepEqual(rowsAt(TABLE, 22.5), [[0, 0], [10, 20], [4, 56]]);
  assert.deepEqual(rowsAt(TABLE, 40), TABLE.points[1]!.rows);
  assert.deepEqual(rowsAt(TABLE, 80), [[0, 0], [20, 80], [8, 212]]);
});

Deno.test("rowsAt() gives what a head has no use for to the others", () => {
  // 160 rows: 50 each for two heads, the other 60 in proportion to 10 and 4.
  assert.deepEqual(rowsAt(TABLE, 40, 50), [[0, 0], [43, 50], [17, 50]]);
  // Everybody has all there is.
  assert.deepEqual(rowsAt(TABLE, 40, 40), [[0, 0], [40, 40], [40, 40]]);
  assert.deepEqual(rowsAt(TABLE, 1e7, 40), [[0, 0], [40, 40], [40, 40]]);
  assert.deepEqual(rowsAt(TABLE, 40, 0), [[0, 0], [0, 0], [0, 0]]);
  // A head that the table gives nothing: only when the others are full.
  const stingy = tableOf(["selected"], [[[0, 4, 4]]]);
  assert.deepEqual(rowsAt(stingy, 6, 9), [[0, 9, 9]]);
  assert.deepEqual(rowsAt(stingy, 8, 9), [[6, 9, 9]]);
});

Deno.test("the calibrated means of a table give the table itself", () => {
  fc.assert(fc.property(anything, (table) => {
    for (const { mean, rows } of table.points) assert.deepEqual(rowsAt(table, mean), rows);
  }));
});

Deno.test("the rows of all heads are those of the mean, exactly, and none is negative", () => {
  const mean = fc.oneof(
    fc.integer({ min: 0, max: 3000 }),
    fc.double({ max: 3000, min: 0, noNaN: true }),
  );
  const most = fc.oneof(fc.integer({ min: 0, max: 2000 }), fc.constant(Infinity));
  fc.assert(
    fc.property(anything, mean, most, (table, mean, most) => {
      const rows = rowsAt(table, mean, most);
      const heads = numSelectedHeads(table);
      assert.equal(total(rows), Math.round(Math.min(mean, most) * heads));
      rows.forEach((counts, layer) => {
        assert.equal(counts.length, 3);
        for (const count of counts) {
          assert.ok(Number.isInteger(count) && count >= 0 && count <= most);
          if (table.roles[layer] !== "selected") assert.equal(count, 0);
        }
      });
      // Nobody is left without what it could use where the mean is all there is.
      if (mean >= most) {
        rows.forEach((counts, layer) => {
          if (table.roles[layer] === "selected") assert.ok(counts.every((count) => count === most));
        });
      }
    }),
    { numRuns: 2000 },
  );
});

Deno.test("no head loses a row when the mean grows", () => {
  const step = fc.oneof(fc.constant(1), fc.double({ min: 0, max: 60, noNaN: true }));
  const most = fc.oneof(fc.integer({ min: 0, max: 500 }), fc.constant(Infinity));
  fc.assert(
    fc.property(anything, fc.array(step, { maxLength: 60 }), most, (table, steps, most) => {
      let mean = 0;
      let before = rowsAt(table, 0, most).flat();
      for (const step of steps) {
        mean += step;
        const rows = rowsAt(table, mean, most).flat();
        rows.forEach((count, i) => assert.ok(count >= before[i]!, `${before} to ${rows}`));
        before = rows;
      }
    }),
    { numRuns: 1000 },
  );
});

Deno.test("with more rows to use no head has more than all of them, or than with no end of them", () => {
  const range = fc.integer({ min: 1, max: 600 });
  fc.assert(
    fc.property(anything, range, range, range, (table, mean, a, b) => {
      const [few, many] = [Math.min(a, b), Math.max(a, b)];
      const largest = Math.max(...rowsAt(table, mean).flat());
      const most = (use: number) => Math.max(...rowsAt(table, mean, use).flat());
      assert.ok(most(few) <= Math.min(many, largest));
      // Who is full with many is full with few.
      const full = rowsAt(table, mean, many).flat();
      rowsAt(table, mean, few).flat().forEach((count, i) => {
        if (full[i] === many) assert.equal(count, few);
      });
    }),
    { numRuns: 2000 },
  );
});

Deno.test("rowsAt() is near the straight line", () => {
  fc.assert(
    fc.property(anything, fc.double({ min: 0, max: 1, noNaN: true }), (table, part) => {
      const [from, to] = [table.points.at(-2), table.points.at(-1)!];
      if (from === undefined) return;
      const mean = from.mean + part * (to.mean - from.mean);
      const rows = rowsAt(table, mean).flat();
      rows.forEach((count, i) => {
        const [a, b] = [from.rows.flat()[i]!, to.rows.flat()[i]!];
        const line = a + part * (b - a);
        // A large head waits while all small ones get their half row at once.
        assert.ok(Math.abs(count - line) <= 6, `${count} on ${line}`);
        assert.ok(count >= a && count <= b);
      });
    }),
    { numRuns: 1000 },
  );
});

Deno.test("withDenseLayers() leaves the rest its shape and its rows", () => {
  assert.equal(withDenseLayers(TABLE, 0), TABLE);
  const two = withDenseLayers(TABLE, 2);
  assert.deepEqual(
    two,
    tableOf(["dense", "dense", "selected"], [
      [[0, 0], [0, 0], [4, 6]],
      [[0, 0], [0, 0], [4, 106]],
    ]),
  );
  assert.deepEqual(withDenseLayers(TABLE, 3), { roles: ["dense", "dense", "dense"], points: null });
  const empty = tableOf(["selected", "selected"], [[[4, 4], [0, 0]]]);
  assert.deepEqual(withDenseLayers(empty, 1), { roles: ["dense", "selected"], points: null });
  assert.deepEqual(withDenseLayers({ ...TABLE, restless: [1, 2] }, 2), { ...two, restless: [2] });
  const dense = tableOf(["dense", "selected"], [[[0, 0], [1, 2]]]);
  assert.equal(withDenseLayers(dense, 1), dense);
  fc.assert(fc.property(anything, fc.integer({ min: 0, max: 4 }), (table, numDense) => {
    const { roles, points } = withDenseLayers(table, numDense);
    assert.ok(numDenseLayers(roles) >= numDense);
    assert.deepEqual(roles.slice(numDense), table.roles.slice(numDense));
    for (const [i, { mean, rows }] of (points ?? []).entries()) {
      assert.deepEqual(rows.slice(numDense), table.points[i]!.rows.slice(numDense));
      assert.deepEqual(rowsAt({ roles, points: points! }, mean), rows);
    }
  }));
});

Deno.test("numDenseLayers() counts the leading ones", () => {
  assert.equal(numDenseLayers(["dense", "dense", "window", "dense"]), 2);
  assert.equal(numDenseLayers(["selected"]), 0);
  assert.equal(numDenseLayers(["dense", "dense"]), 2);
});
