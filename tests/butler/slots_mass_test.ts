import { type KvRequest, resolveKv } from "../../src/butler/settings.ts";
import { SlotView } from "../../src/butler/slots.ts";
import { Random } from "../gpu/_rig.ts";
import { assert } from "std-testing";

const KV_HEADS = 2;

function viewOf(request: KvRequest): SlotView {
  const model = { numLayers: 2, numKvHeads: KV_HEADS };
  const situation = { fits: true, canProject: false, canPredict: false };
  return new SlotView(resolveKv(request, model, situation).settings);
}

Deno.test("h2o never asks for more rows than it has not let go", () => {
  const random = new Random(4);
  for (let round = 0; round < 200; round++) {
    const share = random.next() * 0.9 + 0.05;
    const ragged = random.int(0, 300);
    const view = viewOf({
      policy: "h2o",
      sinks: random.int(0, 8),
      window: random.int(1, 20),
      interval: random.int(1, 4),
      budget: random.next() < 0.7 ? { share } : { rows: random.int(0, 60) },
      table: {
        layers: [{ role: "dense" }, { role: "selected", budgets: [ragged, random.int(1, 300)] }],
      },
    });
    /** By KV head: candidates that were not let go; null: nothing was yet. */
    let alive: number[] | null = null;
    let to = 0;
    let windowStart = 0;
    for (let n = random.int(1, 120), step = 0; step < 60; n++, step++) {
      view.advance(n);
      const layer = view.layer(1);
      if (layer.kind !== "selected" || !layer.fresh) continue;
      const { recipe } = layer;
      assert.ok(recipe.windowStart >= windowStart, "a row came back to the window");
      windowStart = recipe.windowStart;
      const left: number[] = alive === null
        ? new Array<number>(KV_HEADS).fill(recipe.to)
        : alive.map((rows) => rows + recipe.to - to);
      recipe.budgets.forEach((rows, head) =>
        assert.ok(rows <= left[head]!, `${rows} rows are asked for, ${left[head]} are left`)
      );
      alive = [...recipe.budgets];
      to = recipe.to;
    }
  }
});

Deno.test("snapkv selects once; its window slides and its lists stay", () => {
  const view = viewOf({ policy: "snapkv", sinks: 2, window: 5, budget: { rows: 10 }, interval: 1 });
  assert.equal(view.advance(12), false, "all rows are covered");
  assert.equal(view.layer(1).kind, "all");
  assert.equal(view.advance(40), true);
  const first = view.layer(1);
  assert.ok(first.kind === "selected" && first.fresh);
  assert.deepEqual(first.recipe.budgets, [12, 12]);
  for (let n = 41; n < 50; n++) {
    assert.equal(view.advance(n), false);
    const layer = view.layer(1);
    assert.ok(layer.kind === "selected" && !layer.fresh);
    assert.equal(layer.recipe, first.recipe);
    assert.equal(layer.windowStart, n - 5);
  }
});
