import {
  headShare,
  headTruth,
  largest,
  overallRecall,
  RecallMeans,
} from "../../src/eval/recall.ts";
import { Random } from "../gpu/_rig.ts";
import { assert } from "std-testing";

Deno.test("the largest values are found, the first of equal ones", () => {
  const values = Float32Array.of(3, -1, 7, 3, 3, -Infinity, 7);
  assert.deepEqual([...largest(values, 3)], [0, 2, 6]);
  assert.deepEqual([...largest(values, 2)], [2, 6]);
  assert.deepEqual([...largest(values, 7)], [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual([...largest(values, 0)], []);
});

Deno.test("the truth of a KV head: candidates lie between sinks and window, heads share a list", () => {
  // Two query heads of one value; each key is one value, so that q.k is a product.
  const keys = Float32Array.of(9, 1, 5, 0, -4, 2, 9, 0);
  const queries = Float32Array.of(1, -1);
  const rows = { sinks: 1, window: 2, budget: 2 };
  const truth = headTruth(queries, keys, 1, 8, rows)!;
  // Largest over both heads: 1, 5, 0, 4, 2 at positions 1 to 5.
  assert.deepEqual([...truth.best], [2, 4]);
  const soft = (sign: number) => {
    const raised = Array.from(keys, (key) => Math.exp(sign * key));
    const sum = raised.reduce((a, b) => a + b, 0);
    return raised.map((value) => value / sum);
  };
  const [first, second] = [soft(1), soft(-1)];
  first.forEach((value, t) => {
    assert.ok(Math.abs((value + second[t]!) / 2 - truth.weights[t]!) < 1e-6, `row ${t}`);
  });
  const massOf = (list: readonly number[]) =>
    list.reduce((sum, t) => sum + (first[t]! + second[t]!) / 2, 0);
  assert.ok(Math.abs(truth.bestMass - massOf([0, 2, 4, 6, 7])) < 1e-6);
  const share = headShare(truth, { prefix: 1, windowStart: 6, lists: [[2, 3]] }, 0);
  assert.equal(share.recall, 0.5);
  assert.ok(Math.abs(share.mass - massOf([0, 2, 3, 6, 7])) < 1e-6);
  // A longer window, no list: what it reaches counts too.
  const recent = headShare(truth, { prefix: 1, windowStart: 4, lists: [[]] }, 0);
  assert.equal(recent.recall, 0.5);
  assert.deepEqual(headShare(truth, null, 0), { recall: 1, mass: 1 });
  assert.equal(headTruth(queries, keys, 1, 5, rows), null, "there is nothing to choose");
});

Deno.test("no selection of as many rows covers more than the best ones, with one query head", () => {
  const random = new Random(2);
  const keys = random.floats(200 * 8, 1);
  const rows = { sinks: 4, window: 16, budget: 20 };
  const truth = headTruth(random.floats(8, 1), keys, 8, 180, rows)!;
  for (let i = 0; i < 50; i++) {
    const list = new Set<number>();
    while (list.size < 20) list.add(random.int(4, 164));
    const share = headShare(truth, { prefix: 4, windowStart: 164, lists: [[...list]] }, 0);
    assert.ok(share.mass <= truth.bestMass + 1e-6);
    assert.ok(share.recall < 1);
  }
});

Deno.test("means leave out the first layer, and those in which nothing is selected", () => {
  const means = new RecallMeans(3, 2);
  for (const recall of [0.25, 0.75]) {
    for (let head = 0; head < 2; head++) {
      means.add(0, head, { recall: 0, mass: 0 }, 0, false);
      means.add(1, head, { recall: 1, mass: 1 }, 0.9, true);
      means.add(2, head, { recall: recall + head / 4, mass: 0.5 }, 0.75, false);
    }
  }
  assert.equal(means.rows, 2);
  const layers = means.layers();
  assert.deepEqual(layers.map(({ selects }) => selects), [true, false, true]);
  assert.deepEqual(layers[2]!.recall, [0.5, 0.75]);
  assert.deepEqual(overallRecall(layers), { recall: 0.625, mass: 0.5, best: 0.75 });
});
