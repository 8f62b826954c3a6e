import { assert, fc } from "std-testing";
import {
  headBudgets,
  KV_DEFAULTS,
  type KvRequest,
  type KvSettings,
  KvSettingsError,
  type KvSituation,
  type KvTable,
  longestInterval,
  meanBudget,
  mergeKv,
  mostHeadBudget,
  POLICY_NAMES,
  resolveKv,
  stepsKept,
} from "../../src/butler/settings.ts";
import { wireDefaults } from "../../src/butler/settings_wire.ts";
import { growthOf } from "../../src/butler/slots.ts";

const MODEL = { numLayers: 4, numKvHeads: 2 };
const ALL: KvSituation = { fits: true, canProject: true, canPredict: true };
const NONE: KvSituation = { fits: false, canProject: false, canPredict: false };

const resolve = (request: KvRequest, situation = ALL) => resolveKv(request, MODEL, situation);

function refusal(request: unknown, situation = ALL): KvSettingsError {
  try {
    resolve(request as KvRequest, situation);
  } catch (error) {
    assert.ok(error instanceof KvSettingsError, String(error));
    return error;
  }
  throw new Error(`not refused: ${JSON.stringify(request)}`);
}

const roles = (request: KvRequest) =>
  resolve(request).settings.layers.map(({ role }) => role).join(" ");

Deno.test("resolveKv() has the documented defaults", () => {
  const { settings, notes } = resolve({ policy: "loki" });
  assert.deepEqual(settings, {
    policy: "loki",
    sinks: 64,
    window: 192,
    budget: { rows: 768 },
    interval: 1,
    neighbours: false,
    fetch: "in-step",
    recallEvery: 0,
    layers: [
      { role: "dense", weights: [1, 1] },
      ...Array.from({ length: 3 }, () => ({ role: "selected", weights: [1, 1] })),
    ],
  });
  assert.deepEqual(notes, []);
});

Deno.test("resolveKv() keeps all that is said", () => {
  const said = {
    policy: "h2o",
    sinks: 0,
    window: 1,
    budget: { share: 0.125 },
    interval: 1024,
    neighbours: false,
    fetch: "ahead",
    recallEvery: 7,
  } as const;
  const { layers, ...settings } = resolve({ ...said, denseLayers: 0 }).settings;
  assert.deepEqual(settings, said);
  assert.ok(layers.every(({ role }) => role === "selected"));
});

Deno.test("neighbours are on for intervals above 1 unless somebody says otherwise", () => {
  const neighbours = (request: KvRequest) => resolve(request).settings.neighbours;
  assert.equal(neighbours({}), false);
  assert.equal(neighbours({ interval: 2 }), true);
  assert.equal(neighbours({ interval: 2, neighbours: false }), false);
  assert.equal(neighbours({ interval: 1, neighbours: true }), true);
});

Deno.test("the roles of layers follow from the policy and the dense layers", () => {
  assert.equal(roles({ policy: "dense", denseLayers: 2 }), "dense dense dense dense");
  assert.equal(roles({ policy: "oracle" }), "dense selected selected selected");
  assert.equal(roles({ policy: "quest" }), "dense dense selected selected");
  assert.equal(roles({ policy: "quest", denseLayers: 1 }), "dense selected selected selected");
  assert.equal(roles({ policy: "streaming" }), "dense window window window");
  assert.equal(roles({ policy: "streaming", denseLayers: 0 }), "window window window window");
  assert.equal(roles({ policy: "snapkv", denseLayers: 4 }), "dense dense dense dense");
  const one = { numLayers: 1, numKvHeads: 1 };
  assert.equal(resolveKv({ policy: "quest" }, one, ALL).settings.layers.length, 1);
});

Deno.test("streaming has no budget beside sinks and window", () => {
  const { budget, window } = resolve({ policy: "streaming", budget: { rows: 9 }, window: 5 })
    .settings;
  assert.deepEqual(budget, { rows: 0 });
  assert.equal(window, 5);
});

Deno.test("the policy that nobody names follows from the size and what there is", () => {
  assert.equal(resolve({}).settings.policy, "dense");
  assert.equal(resolve({}, { ...NONE, fits: true }).settings.policy, "dense");
  assert.deepEqual(resolve({}, { ...NONE, fits: true }).notes, []);
  const best = resolve({}, { ...ALL, fits: false });
  assert.equal(best.settings.policy, "tokenbutler");
  assert.deepEqual(best.notes, []);
  const loki = resolve({}, { ...NONE, canProject: true });
  assert.equal(loki.settings.policy, "loki");
  assert.match(loki.notes.join(), /loki .* no predictor of this model.*\.\/run train/);
  // No producer sees what enters the first layer before its rows are chosen.
  const first = { table: { layers: Array.from({ length: 4 }, () => ({ role: "selected" })) } };
  for (const request of [{ denseLayers: 0 }, first as KvRequest]) {
    const { settings, notes } = resolve(request, { ...ALL, fits: false });
    assert.equal(settings.policy, "loki");
    assert.deepEqual(notes, []);
  }
  const streamed = resolve({}, NONE);
  assert.equal(streamed.settings.policy, "dense");
  assert.match(streamed.notes.join(), /\.\/run calibrate/);
});

Deno.test("a named policy is taken as it is, or refused with what to do", () => {
  for (const policy of POLICY_NAMES) {
    assert.equal(resolve({ policy }).settings.policy, policy);
    const needs = policy === "loki" || policy === "tokenbutler";
    if (!needs) assert.equal(resolve({ policy }, NONE).settings.policy, policy);
    else {
      const error = refusal({ policy }, NONE);
      assert.equal(error.param, "kv.policy");
      assert.match(error.message, /^`kv\.policy` is .*\.\/run calibrate/);
    }
  }
});

Deno.test("under tokenbutler the rows of the first layer cannot be chosen", () => {
  const policy = "tokenbutler";
  assert.match(
    refusal({ policy, denseLayers: 0 }).message,
    /^`kv\.dense_layers` must be at least 1/,
  );
  const table = (role: string) => ({
    policy,
    table: { layers: [{ role }, ...Array.from({ length: 3 }, () => ({ role: "selected" }))] },
  });
  const error = refusal(table("selected"));
  assert.equal(error.param, "kv.table.layers[0].role");
  assert.match(error.message, /must be dense or window under tokenbutler/);
  for (const role of ["dense", "window"]) resolve(table(role) as KvRequest);
});

Deno.test("a table says what each layer and each head has", () => {
  const table: KvTable = {
    layers: [
      { role: "window" },
      { role: "selected", budgets: [100, 300] },
      { role: "selected" },
      { role: "dense" },
    ],
  };
  const { budget, layers } = resolve({ policy: "loki", table }).settings;
  assert.deepEqual(budget, { rows: 200 });
  assert.deepEqual(layers, [
    { role: "window", weights: [1, 1] },
    { role: "selected", weights: [0.5, 1.5] },
    { role: "selected", weights: [1, 1] },
    { role: "dense", weights: [1, 1] },
  ]);
  const more = resolve({ policy: "loki", table, budget: { rows: 50 } }).settings;
  assert.deepEqual(more.budget, { rows: 50 });
  assert.deepEqual(more.layers, layers);
  const plain = { layers: table.layers.map(({ role }) => ({ role })) };
  assert.deepEqual(resolve({ policy: "loki", table: plain }).settings.budget, KV_DEFAULTS.budget);
  assert.equal(roles({ policy: "streaming", table }), "window window window dense");
  assert.equal(roles({ policy: "dense", table }), "dense dense dense dense");
});

Deno.test("a table of zeros selects nothing", () => {
  const layers = Array.from({ length: 4 }, () => ({ role: "selected", budgets: [0, 0] } as const));
  const { settings } = resolve({ policy: "loki", table: { layers } });
  assert.deepEqual(settings.budget, { rows: 0 });
  assert.ok(settings.layers.every(({ weights }) => weights.every((weight) => weight === 1)));
});

Deno.test("resolveKv() names the field that is wrong, and takes the ends of each range", () => {
  const selected = (count: number, budgets?: unknown) => ({
    layers: Array.from({ length: count }, () => ({
      role: "selected",
      ...(budgets === undefined ? {} : { budgets }),
    })),
  });
  const bad: readonly (readonly [request: unknown, param: string])[] = [
    [null, ""],
    [[], ""],
    [5, ""],
    [{ polcy: "loki" }, "polcy"],
    [{ policy: "lokki" }, "policy"],
    [{ policy: 5 }, "policy"],
    [{ policy: null }, "policy"],
    [{ sinks: -1 }, "sinks"],
    [{ sinks: 65_537 }, "sinks"],
    [{ sinks: 1.5 }, "sinks"],
    [{ sinks: "64" }, "sinks"],
    [{ sinks: NaN }, "sinks"],
    [{ window: 0 }, "window"],
    [{ window: 2 ** 20 + 1 }, "window"],
    [{ budget: 768 }, "budget"],
    [{ budget: {} }, "budget"],
    [{ budget: { rows: -1 } }, "budget"],
    [{ budget: { rows: 2 ** 24 + 1 } }, "budget"],
    [{ budget: { rows: 0.5 } }, "budget"],
    [{ budget: { share: 0 } }, "budget"],
    [{ budget: { share: 1.01 } }, "budget"],
    [{ budget: { share: NaN } }, "budget"],
    [{ budget: { rows: 1, share: 1 } }, "budget"],
    [{ interval: 0 }, "interval"],
    [{ interval: 1025 }, "interval"],
    [{ neighbours: 1 }, "neighbours"],
    [{ denseLayers: -1 }, "dense_layers"],
    [{ denseLayers: 5 }, "dense_layers"],
    [{ fetch: "later" }, "fetch"],
    [{ recallEvery: -1 }, "recall_every"],
    [{ recallEvery: 2 ** 20 + 1 }, "recall_every"],
    [{ table: [] }, "table"],
    [{ table: {} }, "table.layers"],
    [{ table: { layers: [] } }, "table.layers"],
    [{ table: { layers: {} } }, "table.layers"],
    [{ table: { ...selected(4), more: 1 } }, "table.more"],
    [{ table: selected(3) }, "table.layers"],
    [{ table: selected(5) }, "table.layers"],
    [{ table: { layers: [5] } }, "table.layers[0]"],
    [{ table: { layers: [{ role: "dense" }, {}] } }, "table.layers[1].role"],
    [{ table: { layers: [{ role: "sparse" }] } }, "table.layers[0].role"],
    [{ table: { layers: [{ role: "dense", budget: 1 }] } }, "table.layers[0].budget"],
    [{ table: { layers: [{ role: "dense", budgets: [1, 1] }] } }, "table.layers[0].budgets"],
    [{ table: { layers: [{ role: "window", interval: 1 }] } }, "table.layers[0].interval"],
    [{ table: { layers: [{ role: "selected", interval: 0 }] } }, "table.layers[0].interval"],
    [{ table: selected(4, []) }, "table.layers[0].budgets"],
    [{ table: selected(4, [1]) }, "table.layers[0].budgets"],
    [{ table: selected(4, [1, 2, 3]) }, "table.layers[0].budgets"],
    [{ table: selected(4, [1, -2]) }, "table.layers[0].budgets[1]"],
    [{ table: selected(4, [1, "2"]) }, "table.layers[0].budgets[1]"],
    [{ table: selected(4), denseLayers: 1 }, "table"],
  ];
  for (const [request, param] of bad) {
    const error = refusal(request);
    assert.equal(error.param, `kv${param === "" ? "" : `.${param}`}`, JSON.stringify(request));
    assert.ok(error.message.startsWith(`\`${error.param}\` `), error.message);
  }
  for (
    const request of [
      { sinks: 0, window: 1, budget: { rows: 0 }, interval: 1, denseLayers: 0, recallEvery: 0 },
      {
        sinks: 65_536,
        window: 2 ** 20,
        budget: { rows: 2 ** 24 },
        interval: 1024,
        denseLayers: 4,
        recallEvery: 2 ** 20,
      },
      { budget: { share: 1 } },
      { budget: { share: 1e-9 } },
    ]
  ) resolve(request);
});

Deno.test("a misspelt name gets a suggestion", () => {
  assert.match(refusal({ polcy: "loki" }).message, /did you mean `policy`\?/);
  assert.match(refusal({ policy: "lokki" }).message, /"lokki" \(did you mean loki\?\)/);
  assert.match(refusal({ zzz: 1 }).message, /there are policy, sinks/);
  const long = refusal({ ["x".repeat(1e6)]: 1 });
  assert.equal(long.param, "kv");
  assert.ok(long.message.length < 200);
});

Deno.test("a list of a million bad elements is one error, at once", () => {
  const before = performance.now();
  const error = refusal({ table: { layers: Array.from({ length: 1e6 }, () => 5) } });
  assert.equal(error.param, "kv.table.layers");
  assert.ok(performance.now() - before < 1000);
});

const request = fc.record({
  policy: fc.constantFrom(...POLICY_NAMES),
  sinks: fc.integer({ min: 0, max: 100 }),
  window: fc.integer({ min: 1, max: 100 }),
  budget: fc.oneof(
    fc.record({ rows: fc.nat(1000) }),
    fc.record({ share: fc.integer({ min: 1, max: 100 }).map((percent) => percent / 100) }),
  ),
  interval: fc.integer({ min: 1, max: 16 }),
  neighbours: fc.boolean(),
  denseLayers: fc.integer({ min: 0, max: 4 }),
  fetch: fc.constantFrom("in-step", "ahead"),
  recallEvery: fc.nat(9),
}, { requiredKeys: [] }) as fc.Arbitrary<KvRequest>;

Deno.test("mergeKv() takes each member from the request, else from the command line", () => {
  fc.assert(
    fc.property(request, request, (base, over) => {
      const merged = mergeKv(base, over);
      for (const key of new Set([...Object.keys(base), ...Object.keys(over)])) {
        const name = key as keyof KvRequest;
        assert.deepEqual(merged[name], over[name] ?? base[name]);
      }
      assert.deepEqual(mergeKv(merged, over), merged);
      // Nothing is predicted for the first layer.
      if (merged.policy !== "tokenbutler" || merged.denseLayers !== 0) resolve(merged);
    }),
    { seed: 4 },
  );
});

Deno.test("mergeKv() replaces a table by dense layers and the reverse", () => {
  const layers = Array.from({ length: 4 }, () => ({ role: "selected", budgets: [1, 3] } as const));
  const table = { layers };
  assert.deepEqual(mergeKv({ table }, { denseLayers: 2 }), { denseLayers: 2 });
  assert.deepEqual(mergeKv({ denseLayers: 2, sinks: 5 }, { table }), { table, sinks: 5 });
  assert.deepEqual(mergeKv({ budget: { rows: 9 } }, { table }), { table });
  assert.deepEqual(mergeKv({ budget: { rows: 9 } }, { table, budget: { rows: 8 } }), {
    table,
    budget: { rows: 8 },
  });
  const roles = { layers: [{ role: "window" }] } as const;
  assert.deepEqual(mergeKv({ budget: { rows: 9 } }, { table: roles }), {
    budget: { rows: 9 },
    table: roles,
  });
  assert.deepEqual(mergeKv({ table }, { policy: "loki" }), { table, policy: "loki" });
});

Deno.test("a head has exactly the rows that a table gives it, and a part of any other budget", () => {
  const layer = fc.oneof(
    fc.constantFrom({ role: "dense" }, { role: "window" }, { role: "selected" }),
    fc.record({
      role: fc.constant("selected"),
      budgets: fc.array(fc.oneof(fc.nat(3), fc.nat(5000)), { minLength: 2, maxLength: 2 }),
    }),
  ) as fc.Arbitrary<KvTable["layers"][number]>;
  const table = fc.array(layer, { minLength: 4, maxLength: 4 }).map((layers) => ({ layers }));
  fc.assert(
    fc.property(table, (table) => {
      const { settings } = resolve({ policy: "loki", table });
      const given = headBudgets(settings, 1e6);
      table.layers.forEach(({ budgets }, layer) => {
        if (budgets !== undefined) assert.deepEqual(given[layer], budgets);
      });
      const rows = table.layers.flatMap(({ budgets }) => budgets ?? []);
      const mean = rows.reduce((sum, count) => sum + count, 0) / rows.length;
      if (rows.length === 0 || mean === 0) return;
      assert.ok(Math.abs(meanBudget(settings, 1e6) - mean) < 1);
      // Any other budget is shared out in the table's proportions.
      const budget = { share: 0.5 };
      const other = resolve({ policy: "loki", table, sinks: 0, budget }).settings;
      const ratio = meanBudget(other, 1e6) / mean;
      table.layers.forEach(({ budgets }, layer) =>
        budgets?.forEach((count, head) => {
          const got = headBudgets(other, 1e6)[layer]![head]!;
          assert.ok(Math.abs(got - ratio * count) <= 0.5 + 1e-6 * got, `${got} for ${count}`);
        })
      );
    }),
    { seed: 4 },
  );
});

Deno.test("the budget that a reply names for a table gives the same rows again", () => {
  const budgets = [[1, 2], [100, 101], [0, 1]] as const;
  for (const heads of budgets) {
    const layers = [1, 2, 3, 4].map(() => ({ role: "selected", budgets: heads } as const));
    const { budget, ...settings } = resolve({ policy: "loki", table: { layers } }).settings;
    const again = resolve({ policy: "loki", table: { layers }, budget }).settings;
    assert.deepEqual(again, { budget, ...settings });
    assert.deepEqual(headBudgets(again, 1000), layers.map(() => heads));
  }
});

/** Two layers under a budget, of which one has half of it in one head. */
const withBudget = (budget: KvSettings["budget"]): KvSettings => ({
  ...resolve({ policy: "loki" }).settings,
  budget,
  layers: [{ role: "selected", weights: [1, 1] }, { role: "selected", weights: [0.5, 1.5] }],
});

Deno.test("a table's layers can have intervals of their own, which decide on neighbours", () => {
  const layers = (...intervals: (number | undefined)[]) => ({
    layers: [
      { role: "dense" } as const,
      ...intervals.map((interval) => ({
        role: "selected" as const,
        ...(interval === undefined ? {} : { interval }),
      })),
    ],
  });
  const settingsOf = (request: KvRequest) => resolve({ policy: "loki", ...request }).settings;
  const kept = settingsOf({ table: layers(8, undefined, 1) });
  assert.ok(kept.neighbours && longestInterval(kept) === 8);
  assert.deepEqual([1, 2, 3].map((layer) => stepsKept(kept, layer)), [7, 0, 0]);
  assert.deepEqual([1, 2, 3].map((layer) => growthOf(kept, layer, 1000)), [2, 1, 1]);
  const none = settingsOf({ interval: 8, table: layers(1, 1, 1) });
  assert.ok(!none.neighbours && longestInterval(none) === 1);
  // What a request says comes before what a server's table says.
  const table = layers(8, undefined, 1);
  const merged = mergeKv({ table, interval: 4 }, { interval: 2 });
  assert.deepEqual(merged, { table: layers(undefined, undefined, undefined), interval: 2 });
  assert.deepEqual(mergeKv({ table }, { sinks: 1 }).table, table);
  const own = layers(3, 3, 3);
  assert.deepEqual(mergeKv({ table }, { interval: 2, table: own }).table, own);
  for (const given of [table, own, layers(1, 1, 1)]) {
    const { neighbours } = settingsOf({ table: given, interval: 5 });
    assert.equal(wireDefaults({ table: given, interval: 5 }).neighbours, neighbours);
  }
});

Deno.test("budgets are a count, or a share of all rows less sinks and window", () => {
  for (
    const [budget, n, mean, half] of [
      [{ rows: 768 }, 10, 768, 384],
      [{ rows: 5 }, 10, 5, 3],
      [{ share: 0.125 }, 8192, 768, 384],
      [{ share: 0.125 }, 2048, 0, 0],
      [{ share: 0.125 }, 100, 0, 0],
      [{ share: 1 }, 1000, 744, 372],
    ] as const
  ) {
    const settings = withBudget(budget);
    assert.equal(meanBudget(settings, n), mean);
    assert.deepEqual(headBudgets(settings, n)[0], [mean, mean]);
    assert.equal(headBudgets(settings, n)[1]?.[0], half);
  }
  assert.equal(mostHeadBudget(withBudget({ rows: 100 })), 150);
  assert.equal(mostHeadBudget(withBudget({ share: 0.5 }), 1000), 366);
  assert.equal(mostHeadBudget(withBudget({ share: 0.5 })), Infinity);
});
