import { assert, fc } from "std-testing";
import type { KvSettings } from "../../src/butler/settings.ts";
import { attendedRows, mostListRows, SlotView } from "../../src/butler/slots.ts";
import { layerRecipe } from "../../src/butler/policies/mod.ts";
import { MOST_NEIGHBOUR_BUDGET } from "../../src/gpu/ops/neighbours.ts";
import { anyBudget, anyRole, anyWeights, settingsOf } from "./_settings.ts";

const SMALL = { sinks: 4, window: 8, budget: { rows: 6 } } as const;

/** Steps of `view` from `first` rows on at which layer `layer` has a fresh selection. */
function freshSteps(view: SlotView, layer: number, first: number, count: number): number[] {
  const fresh: number[] = [];
  for (let n = first; n < first + count; n++) {
    const any = view.advance(n);
    const own = view.layer(layer);
    if (own.kind === "selected" && own.fresh) fresh.push(n);
    if (own.kind === "selected") assert.ok(any || !own.fresh);
  }
  return fresh;
}

Deno.test("a selection is made every `interval` steps, beginning with the first that leaves rows", () => {
  for (const interval of [1, 2, 5]) {
    const view = new SlotView(settingsOf(["selected"], { ...SMALL, interval }));
    // 18 rows are covered: there is nothing to select before the 19th.
    const fresh = freshSteps(view, 0, 15, 20);
    const wanted = [];
    for (let n = 19; n < 35; n += interval) wanted.push(n);
    assert.deepEqual(fresh, wanted, `interval ${interval}`);
  }
});

Deno.test("between selections the window grows from where it was", () => {
  const view = new SlotView(settingsOf(["selected"], { ...SMALL, interval: 3 }));
  const starts = [];
  for (let n = 30; n < 37; n++) {
    view.advance(n);
    const layer = view.layer(0);
    assert.ok(layer.kind === "selected");
    starts.push(layer.windowStart);
    assert.equal(attendedRows(layer, n), 4 + 6 + n - layer.windowStart);
  }
  assert.deepEqual(starts, [22, 22, 22, 25, 25, 25, 28]);
});

Deno.test("roles: dense attends to all, a window slides with S + W + B rows, others select", () => {
  const view = new SlotView(settingsOf(["dense", "window", "selected"], SMALL));
  view.advance(40);
  assert.deepEqual(view.layer(0), { kind: "all" });
  assert.deepEqual(view.layer(1), { kind: "window", prefix: 4, windowRows: 14 });
  assert.equal(view.layer(2).kind, "selected");
  assert.deepEqual([0, 1, 2].map((layer) => attendedRows(view.layer(layer), 40)), [40, 18, 18]);
  // A share of all rows: the window grows with the sequence.
  const share = new SlotView(settingsOf(["window"], { ...SMALL, budget: { share: 0.5 } }));
  share.advance(40);
  assert.deepEqual(share.layer(0), { kind: "window", prefix: 4, windowRows: 16 });
  share.advance(80);
  assert.deepEqual(share.layer(0), { kind: "window", prefix: 4, windowRows: 36 });
});

Deno.test("a policy that selects once keeps its list while its window slides", () => {
  const view = new SlotView(settingsOf(["selected"], { ...SMALL, policy: "snapkv" }));
  const lists: number[] = [];
  const starts: number[] = [];
  const fresh = [];
  for (let n = 40; n < 45; n++) {
    fresh.push(view.advance(n));
    const layer = view.layer(0);
    assert.ok(layer.kind === "selected");
    lists.push(layer.recipe.to);
    starts.push(layer.windowStart);
  }
  assert.deepEqual(fresh, [true, false, false, false, false]);
  assert.deepEqual(lists, [32, 32, 32, 32, 32]);
  assert.deepEqual(starts, [32, 33, 34, 35, 36]);
});

Deno.test("a policy that selects once does so in each layer when there is something to choose", () => {
  const settings = settingsOf(["selected", "selected"], { ...SMALL, policy: "snapkv" });
  // The second layer has S + W + B = 24 rows.
  const layers = settings.layers.map((layer, i) => ({ ...layer, weights: [i === 0 ? 1 : 2] }));
  const view = new SlotView({ ...settings, layers });
  assert.deepEqual([0, 1].map((layer) => freshSteps(view, layer, 15 + layer * 10, 10)), [[19], [
    25,
  ]]);
  assert.equal(attendedRows(view.layer(1), 34), 24);
});

Deno.test("h2o never has more rows in a list than are left of those before", () => {
  const settings = settingsOf(["selected"], { ...SMALL, policy: "h2o" }, [0, 1, 2]);
  const view = new SlotView(settings);
  let before: readonly number[] | null = null;
  let to = 0;
  for (let n = 30; n < 60; n++) {
    view.advance(n);
    const layer = view.layer(0);
    if (layer.kind !== "selected") continue;
    const { budgets } = layer.recipe;
    if (before !== null) {
      budgets.forEach((rows, head) => assert.ok(rows <= before![head]! + layer.recipe.to - to));
    }
    before = budgets;
    to = layer.recipe.to;
  }
  assert.ok(before !== null);
});

Deno.test("neighbours double lists of policies that rank row by row, up to a budget", () => {
  const growth = (more: Partial<KvSettings>, maxRows = 100_000) => {
    const settings = settingsOf(["selected"], { ...SMALL, neighbours: true, ...more });
    return new SlotView(settings, false, maxRows).growth[0];
  };
  assert.equal(growth({ policy: "loki" }), 2);
  assert.equal(growth({ policy: "oracle" }), 2);
  for (const policy of ["quest", "h2o", "snapkv"] as const) assert.equal(growth({ policy }), 1);
  assert.equal(growth({ neighbours: false }), 1);
  assert.equal(growth({ budget: { rows: MOST_NEIGHBOUR_BUDGET } }), 2);
  assert.equal(growth({ budget: { rows: MOST_NEIGHBOUR_BUDGET + 1 } }), 1);
  // A share counts by the longest that the sequence may become.
  assert.equal(growth({ budget: { share: 0.1 } }), 2);
  assert.equal(growth({ budget: { share: 0.1 } }, 10 * MOST_NEIGHBOUR_BUDGET), 2);
  assert.equal(growth({ budget: { share: 0.1 } }, 11 * MOST_NEIGHBOUR_BUDGET), 1);
});

Deno.test("heads whose share comes to be all rows have room for what they list before", () => {
  // 1.05 n - 24 of n - 16 rows from 160 on.
  const settings = settingsOf(["selected", "selected"], {
    ...SMALL,
    window: 12,
    budget: { share: 0.7 },
  });
  const layers = settings.layers.map((layer, i) => ({ ...layer, weights: [i === 0 ? 1.5 : 0.5] }));
  const all = { ...settings, layers };
  const room = mostListRows(all, 200, false);
  const view = new SlotView(all);
  view.advance(140);
  const own = view.layer(0);
  assert.ok(own.kind === "selected" && own.listRows > 100);
  assert.ok(own.listRows <= room, `${own.listRows} rows, room for ${room}`);
});

Deno.test("no step lists more rows than lists have room for, or attends to more than there are", () => {
  const settings = fc.record({
    policy: fc.constantFrom(...["oracle", "quest", "h2o", "snapkv", "loki", "dense"] as const),
    sinks: fc.integer({ min: 0, max: 20 }),
    window: fc.integer({ min: 1, max: 40 }),
    budget: anyBudget,
    interval: fc.integer({ min: 1, max: 9 }),
    neighbours: fc.boolean(),
  });
  fc.assert(
    fc.property(
      settings,
      fc.array(anyRole, { minLength: 1, maxLength: 3 }),
      anyWeights,
      fc.integer({ min: 1, max: 400 }),
      fc.integer({ min: 1, max: 60 }),
      (more, roles, weights, first, steps) => {
        const all = settingsOf(roles, more, weights);
        const last = first + steps - 1;
        const room = mostListRows(all, last, false);
        const view = new SlotView(all, false, last);
        for (let n = first; n <= last; n++) {
          view.advance(n);
          roles.forEach((role, layer) => {
            const own = view.layer(layer);
            const rows = attendedRows(own, n);
            assert.ok(rows >= 0 && rows <= n + 1e-9, `${rows} rows of ${n}`);
            if (role === "dense") assert.equal(own.kind, "all");
            if (role === "window") assert.equal(own.kind, "window");
            if (own.kind !== "selected") return;
            assert.equal(role, "selected");
            assert.ok(own.listRows <= room, `${own.listRows} rows, room for ${room}`);
            const { prefix, from, to, unit, windowStart, budgets } = own.recipe;
            assert.ok(prefix <= from * unit && from <= to && to * unit <= windowStart);
            assert.ok(own.windowStart >= windowStart && own.windowStart < n);
            for (const units of budgets) assert.ok(units >= 0 && units <= to - from);
            if (own.fresh && more.policy !== "h2o") {
              assert.deepEqual(own.recipe, layerRecipe(all, layer, n));
            }
          });
        }
      },
    ),
    { numRuns: 1000 },
  );
});
