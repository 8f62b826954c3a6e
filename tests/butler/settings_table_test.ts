/** Which layers and heads have what once the predictor's table is in use, and what is said of it. */
import { assert, fc } from "std-testing";
import { numSelectedHeads, rowsAt } from "../../src/butler/budget_table.ts";
import { layerRecipe } from "../../src/butler/policies/mod.ts";
import {
  headBudgets,
  type KvRequest,
  KvSettingsError,
  type KvSituation,
  longestInterval,
  mergeKv,
  mostHeadBudget,
  POLICY_NAMES,
  resolveKv,
  stepsKept,
} from "../../src/butler/settings.ts";
import { readKv, wireDefaults, wireSettings } from "../../src/butler/settings_wire.ts";
import { mostListRows, SlotView } from "../../src/butler/slots.ts";
import { MOST_NEIGHBOUR_BUDGET } from "../../src/gpu/ops/neighbours.ts";
import { BLOCK_ROWS } from "../../src/kv/slab_pool.ts";
import { wishedSet } from "../../src/kv/working_set.ts";
import { anyBudget, settingsOf } from "./_settings.ts";
import { anyTable, tableOf } from "./_tables.ts";

const MODEL = { numLayers: 3, numKvHeads: 2 };
const TABLE = tableOf(["window", "selected", "selected"], [
  [[0, 0], [10, 0], [4, 6]],
  [[0, 0], [10, 40], [4, 106]],
]);
const SITUATION: KvSituation = {
  fits: true,
  canProject: true,
  canPredict: true,
  budgetTable: TABLE,
};
const resolve = (request: KvRequest, situation = SITUATION) =>
  resolveKv({ policy: "tokenbutler", ...request }, MODEL, situation).settings;
const roles = (request: KvRequest) => resolve(request).layers.map(({ role }) => role).join(" ");
const FILE = {
  layers: [{ role: "dense" }, { role: "selected", budgets: [1, 3] }, { role: "selected" }],
} as const;

Deno.test("tokenbutler follows the predictor's table, the other policies do not", () => {
  const settings = resolve({});
  assert.equal(settings.budgetTable, TABLE);
  assert.equal(roles({}), "window selected selected");
  assert.deepEqual(settings.budget, { rows: 768 });
  assert.ok(settings.layers.every(({ weights }) => weights.join() === "1,1"));
  for (const policy of POLICY_NAMES) {
    if (policy === "tokenbutler") continue;
    const other = resolve({ policy });
    assert.ok(!("budgetTable" in other));
    assert.deepEqual(other, resolve({ policy }, { ...SITUATION, budgetTable: null }));
  }
  // Nobody names a policy and the request fits.
  assert.ok(!("budgetTable" in resolveKv({}, MODEL, SITUATION).settings));
});

Deno.test("restless layers choose at every step, and have no neighbours", () => {
  const situation = { ...SITUATION, budgetTable: { ...TABLE, restless: [2] } };
  const settings = resolve({ interval: 8, budget: { rows: 4 }, sinks: 2, window: 4 }, situation);
  assert.deepEqual(settings.restless, [2]);
  assert.deepEqual([1, 2].map((layer) => stepsKept(settings, layer)), [7, 0]);
  const view = new SlotView(settings);
  assert.deepEqual(view.growth, [1, 2, 1]);
  for (let n = 40; n < 60; n++) {
    assert.ok(view.advance(n));
    assert.equal(view.choice(1) !== null, n % 8 === 0);
    assert.ok(view.choice(2) !== null);
    assert.equal(view.choosesAll, n % 8 === 0);
  }
  // Nobody keeps anything: all have the neighbours that were asked for.
  const each = resolve({ interval: 1, neighbours: true, budget: { rows: 4 } }, situation);
  assert.deepEqual(new SlotView(each).growth, [1, 2, 2]);
  assert.equal(longestInterval(each), 1);
  // Also with the same budget for all heads: that is another matter.
  const even = resolve({ interval: 8, table: false }, situation);
  assert.deepEqual(even.restless, [2]);
  assert.deepEqual({ ...wireSettings(even), dense_layers: 1, table: false }, wireSettings(even));
  // Not in a layer that is dense, under a table of the user's own, or another policy.
  assert.ok(!("restless" in resolve({ interval: 8, denseLayers: 3 }, situation)));
  assert.ok(!("restless" in resolve({ interval: 8, table: FILE }, situation)));
  assert.ok(!("restless" in resolve({ interval: 8, policy: "loki" }, situation)));
});

Deno.test("table: false gives every head the same, and a table of the user's own comes first", () => {
  const even = resolve({ table: false });
  assert.deepEqual(even, resolve({}, { ...SITUATION, budgetTable: null }));
  assert.equal(roles({ table: false }), "dense selected selected");
  assert.deepEqual(headBudgets(resolve({ table: false, budget: { rows: 9 } }), 500)[2], [9, 9]);
  const own = resolve({ table: FILE });
  assert.ok(!("budgetTable" in own));
  assert.deepEqual(own.budget, { rows: 2 });
  assert.deepEqual(headBudgets(own, 500).slice(1), [[1, 3], [2, 2]]);
});

Deno.test("table: true needs a predictor with a table", () => {
  assert.deepEqual(resolve({ table: true }), resolve({}));
  for (const budgetTable of [null, undefined]) {
    const { budgetTable: _, ...without } = SITUATION;
    const situation = budgetTable === null ? { ...without, budgetTable } : without;
    assert.throws(() => resolve({ table: true }, situation), (error) => {
      assert.ok(error instanceof KvSettingsError);
      assert.equal(error.param, "kv.table");
      assert.match(error.message, /^`kv\.table` is true, but the predictor has no budget table/);
      return true;
    });
    // Like neighbours: not for the others.
    resolve({ policy: "quest", table: true }, situation);
  }
});

Deno.test("what is neither a table nor true nor false is refused", () => {
  for (const table of [5, "file.json", "off", null]) {
    assert.throws(
      () => resolve({ table } as unknown as KvRequest),
      /^KvSettingsError: `kv\.table` must be true, false or an object with `layers`, but is /,
    );
  }
  assert.throws(() => resolve({ table: [] } as unknown as KvRequest), /`kv\.table` must be/);
});

Deno.test("dense layers go before those of the table", () => {
  assert.equal(roles({ denseLayers: 0 }), "window selected selected");
  assert.equal(roles({ denseLayers: 1 }), "dense selected selected");
  assert.equal(roles({ denseLayers: 1, table: true }), "dense selected selected");
  assert.equal(roles({ denseLayers: 1, table: false }), "dense selected selected");
  const two = resolve({ denseLayers: 2, budget: { rows: 5 } });
  assert.equal(roles({ denseLayers: 2 }), "dense dense selected");
  // The mean is that of the heads that are left, their shape stays.
  assert.deepEqual(headBudgets(two, 500), [[0, 0], [0, 0], [4, 6]]);
  const all = resolve({ denseLayers: 3 });
  assert.equal(roles({ denseLayers: 3 }), "dense dense dense");
  assert.ok(!("budgetTable" in all));
  assert.throws(() => resolve({ denseLayers: 4 }), /at most 3, the layers of this model/);
  assert.throws(
    () => resolve({ denseLayers: 1, table: FILE }),
    /cannot be given together with `dense_layers`/,
  );
});

Deno.test("a budget is the mean over the heads of selected layers, a share's at each length", () => {
  const sizes = { sinks: 4, window: 32 };
  assert.deepEqual(headBudgets(resolve({ ...sizes, budget: { rows: 5 } }), 500), [
    [0, 0],
    [10, 0],
    [4, 6],
  ]);
  // 10 % of 410 rows, less 36.
  const share = resolve({ ...sizes, budget: { share: 0.1 } });
  assert.deepEqual(headBudgets(share, 410), TABLE.points[0]!.rows);
  assert.deepEqual(headBudgets(share, 760), TABLE.points[1]!.rows);
  assert.deepEqual(headBudgets(share, 585), rowsAt(TABLE, 23));
  assert.deepEqual(headBudgets(share, 300), rowsAt(TABLE, 0));
  // 64 rows lie between sinks and window: nobody has more.
  const few = headBudgets(resolve({ ...sizes, budget: { rows: 40 } }), 100);
  assert.deepEqual(few, rowsAt(TABLE, 40, 64));
  assert.equal(Math.max(...few.flat()), 64);
});

const sizes = {
  sinks: fc.integer({ min: 0, max: 20 }),
  window: fc.integer({ min: 1, max: 40 }),
  budget: anyBudget,
  interval: fc.integer({ min: 1, max: 4 }),
  neighbours: fc.boolean(),
  fetch: fc.constantFrom("in-step" as const, "ahead" as const),
};

Deno.test("at every length the heads have the mean together, and all rows where that covers them", () => {
  fc.assert(
    fc.property(
      anyTable(3, 2),
      fc.record(sizes),
      fc.integer({ min: 1, max: 800 }),
      (budgetTable, more, n) => {
        const settings = resolve(more, { ...SITUATION, budgetTable });
        const { sinks, window, budget } = settings;
        const mean = "rows" in budget
          ? budget.rows
          : Math.max(0, Math.round(budget.share * n) - sinks - window);
        const candidates = Math.max(0, n - sinks - window);
        const total = headBudgets(settings, n).flat().reduce((sum, rows) => sum + rows, 0);
        assert.equal(total, Math.min(mean, candidates) * numSelectedHeads(budgetTable));
        if (sinks + window + mean < n) return;
        settings.layers.forEach((_, layer) => {
          assert.equal(layerRecipe(settings, layer, n), "all");
        });
      },
    ),
    { numRuns: 1000 },
  );
});

Deno.test("lists have room for every step of a table's heads", () => {
  let below = 0;
  fc.assert(
    fc.property(
      anyTable(3, 2),
      fc.record(sizes),
      fc.integer({ min: 1, max: 400 }),
      fc.integer({ min: 1, max: 80 }),
      fc.boolean(),
      (budgetTable, more, first, steps, offloaded) => {
        const settings = resolve(more, { ...SITUATION, budgetTable });
        const last = first + steps - 1;
        const room = mostListRows(settings, last, offloaded);
        const most = mostHeadBudget(settings, last);
        const view = new SlotView(settings, offloaded, last);
        for (let n = first; n <= last; n++) {
          view.advance(n);
          settings.layers.forEach((_, layer) => {
            const own = view.layer(layer);
            if (own.kind !== "selected") return;
            assert.ok(own.listRows <= room, `${own.listRows} rows, room for ${room}`);
            for (const rows of own.recipe.budgets) assert.ok(rows <= most);
            below += Number(own.recipe.budgets.some((rows) => rows < most));
            if (own.fresh) assert.deepEqual(own.recipe, layerRecipe(settings, layer, n));
          });
        }
      },
    ),
    { numRuns: 500 },
  );
  assert.ok(below > 1000);
});

Deno.test("slots are for twice the rows of a layer's largest head", () => {
  const settings = resolve({ sinks: 32, window: 32, budget: { rows: 40 } });
  const wish = wishedSet({ settings, maxRows: 4000 });
  // Layer 0 is a window of 32 + 40 rows.
  assert.deepEqual(wish, [
    { prefixBlocks: 1, windowBlocks: 4, slotPages: 0 },
    { prefixBlocks: 1, windowBlocks: 2, slotPages: Math.ceil(80 / BLOCK_ROWS) },
    { prefixBlocks: 1, windowBlocks: 2, slotPages: Math.ceil(212 / BLOCK_ROWS) },
  ]);
});

Deno.test("neighbours are off where the largest head's list is too long for one lane", () => {
  const growth = (rows: number) =>
    new SlotView(resolve({ budget: { rows }, interval: 2 })).growth[1];
  // The largest head has 106 rows of 40 in the mean.
  const mean = Math.floor(MOST_NEIGHBOUR_BUDGET * 40 / 106);
  assert.equal(growth(mean), 2);
  assert.equal(growth(mean + 1), 1);
  const own = (rows: number) =>
    settingsOf(["selected"], { budget: { rows }, neighbours: true }, [0.5, 1.5]);
  assert.equal(new SlotView(own(10_000)).growth[0], 2);
  assert.equal(new SlotView(own(11_000)).growth[0], 1);
});

Deno.test("mergeKv() keeps the word about the predictor's table apart from dense layers", () => {
  const budget = { rows: 9 };
  assert.deepEqual(mergeKv({ table: false }, { denseLayers: 2 }), { table: false, denseLayers: 2 });
  assert.deepEqual(mergeKv({ denseLayers: 2 }, { table: false }), { table: false, denseLayers: 2 });
  assert.deepEqual(mergeKv({ table: false, budget }, { table: true }), { table: true, budget });
  assert.deepEqual(mergeKv({ table: false, budget }, { table: FILE }), { table: FILE });
  assert.deepEqual(mergeKv({ table: FILE, budget }, { table: false }), { table: false, budget });
  assert.deepEqual(mergeKv({ table: FILE }, { table: true }), { table: true });
  assert.deepEqual(mergeKv({ denseLayers: 1, table: true }, { table: FILE }), { table: FILE });
});

Deno.test("wireSettings() says whether the table is used, in one word", () => {
  const wire = (request: KvRequest) => {
    const { dense_layers, table } = wireSettings(resolve(request)) as Record<string, unknown>;
    return { dense_layers, table };
  };
  assert.deepEqual(wire({}), { dense_layers: 0, table: true });
  assert.deepEqual(wire({ denseLayers: 2 }), { dense_layers: 2, table: true });
  assert.deepEqual(wire({ denseLayers: 3 }), { dense_layers: 3, table: false });
  assert.deepEqual(wire({ table: false }), { dense_layers: 1, table: false });
  assert.deepEqual(wire({ policy: "loki" }), { dense_layers: 1, table: undefined });
  assert.ok(!("table" in wireSettings(resolve({ policy: "loki" }))));
  assert.deepEqual(wire({ table: FILE }).dense_layers, undefined);
  assert.ok(JSON.stringify(wireSettings(resolve({}))).length < 200);
});

Deno.test("what wireSettings() gives makes the same settings again", () => {
  const word = fc.constantFrom({}, { table: true }, { table: false });
  const layers = fc.option(fc.integer({ min: 0, max: 3 }));
  fc.assert(
    fc.property(
      anyTable(3, 2),
      fc.record(sizes),
      word,
      layers,
      (budgetTable, more, word, denseLayers) => {
        fc.pre(!("table" in word) || word.table || denseLayers !== 0);
        const situation = { ...SITUATION, budgetTable };
        const given = denseLayers === null ? {} : { denseLayers };
        const settings = resolve({ ...more, ...word, ...given }, situation);
        const again = readKv(JSON.parse(JSON.stringify(wireSettings(settings))));
        const { layers, ...rest } = resolve(again, situation);
        const { layers: wanted, ...wantedRest } = settings;
        assert.deepEqual({ ...rest, budget: 0 }, { ...wantedRest, budget: 0 });
        assert.deepEqual(layers.map(({ role }) => role), wanted.map(({ role }) => role));
      },
    ),
    { numRuns: 500 },
  );
});

Deno.test("wireDefaults() shows the table where there is one", () => {
  const wire = (request: KvRequest, table: typeof TABLE | null = TABLE) => {
    const shown = wireDefaults(request, table) as Record<string, unknown>;
    return [shown["dense_layers"], shown["table"]];
  };
  assert.deepEqual(wire({}), [1, true]);
  assert.deepEqual(wire({}, null), [1, undefined]);
  assert.deepEqual(wire({ policy: "tokenbutler" }), [0, true]);
  assert.deepEqual(wire({ policy: "tokenbutler", denseLayers: 2 }), [2, true]);
  assert.deepEqual(wire({ policy: "tokenbutler", table: false }), [1, false]);
  assert.deepEqual(wire({ table: FILE }), [undefined, FILE]);
});

Deno.test("settings with a table cross a worker boundary unchanged", () => {
  const settings = resolve({});
  assert.deepEqual(structuredClone(settings), settings);
});
