import {
  IMPORTANCE_PAIRS,
  ropePair,
  STILL,
  still,
  type Turning,
  turnQueries,
} from "../../src/butler/predictor/turns.ts";
import { IMPORTANCE_DIM } from "../../src/butler/predictor/shape.ts";
import { Random } from "../gpu/_rig.ts";
import { assert } from "std-testing";

const GROUP = 3;
const LISTS = 2;

Deno.test("pairs turn by position and frequency, with all query heads of their KV head", () => {
  const turns = new Int32Array(LISTS * IMPORTANCE_PAIRS).fill(STILL);
  turns[IMPORTANCE_PAIRS + 2] = 1;
  const turning: Turning = { turns, frequencies: [9, 0.5] };
  const before = Array.from(new Random(1).floats(LISTS * GROUP * IMPORTANCE_DIM, 1));
  const after = [0, ...before];
  turnQueries(after, 1, turning, GROUP, Math.PI);
  before.forEach((value, i) => {
    const list = Math.floor(i / IMPORTANCE_DIM / GROUP);
    const pair = Math.floor(i % IMPORTANCE_DIM / 2);
    // A quarter of a turn: (x, y) to (-y, x).
    const wanted = list !== 1 || pair !== 2
      ? value
      : i % 2 === 0
      ? -before[i + 1]!
      : before[i - 1]!;
    assert.ok(Math.abs(after[i + 1]! - wanted) < 1e-12, `${i}`);
  });
  turnQueries(after, 1, turning, GROUP, -Math.PI);
  before.forEach((value, i) => assert.ok(Math.abs(after[i + 1]! - value) < 1e-12));
});

Deno.test("queries that stand still are left alone", () => {
  const values = Array.from(new Random(2).floats(LISTS * GROUP * IMPORTANCE_DIM, 1));
  const copy = values.slice();
  turnQueries(copy, 0, still(LISTS, 1), GROUP, 1234);
  assert.deepEqual(copy, values);
});

Deno.test("ropePair() gives the dimensions that a model rotates together", () => {
  assert.deepEqual(ropePair({ dimensions: 8, pairing: "half" }, 1), [1, 5]);
  assert.deepEqual(ropePair({ dimensions: 8, pairing: "adjacent" }, 1), [2, 3]);
});
