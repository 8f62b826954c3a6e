import { assert, fc } from "std-testing";
import { combineReports, wireReport } from "../../src/butler/report.ts";
import {
  type KvReport,
  type KvRequest,
  KvSettingsError,
  POLICY_NAMES,
  resolveKv,
} from "../../src/butler/settings.ts";
import {
  kvSchema,
  kvTableSchema,
  parseBudget,
  readKv,
  readTable,
  wireBudget,
  wireDefaults,
  wireSettings,
} from "../../src/butler/settings_wire.ts";

const MODEL = { numLayers: 3, numKvHeads: 2 };
const ALL = { fits: true, canProject: true, canPredict: true };
const settingsOf = (request: KvRequest) => resolveKv(request, MODEL, ALL).settings;

Deno.test("parseBudget() takes rows and percentages", () => {
  assert.deepEqual(parseBudget("768"), { rows: 768 });
  assert.deepEqual(parseBudget("0"), { rows: 0 });
  assert.deepEqual(parseBudget("12.5%"), { share: 0.125 });
  assert.deepEqual(parseBudget("100 %"), { share: 1 });
  assert.deepEqual(parseBudget(".5%"), { share: 0.005 });
  for (
    const text of ["", "-1", "1.5", "0%", "100.1%", "%", "1e3", "12,5%", "16777217", "1 2%", "x"]
  ) {
    assert.equal(parseBudget(text), undefined, text);
  }
});

Deno.test("wireBudget() writes what parseBudget() reads", () => {
  assert.equal(wireBudget({ share: 0.125 }), "12.5%");
  assert.equal(wireBudget({ share: 0.07 }), "7%");
  fc.assert(fc.property(fc.integer({ min: 1, max: 1e6 }), (parts) => {
    const text = wireBudget({ share: parts / 1e6 });
    const read = parseBudget(String(text));
    assert.ok(read !== undefined && "share" in read && Math.abs(read.share - parts / 1e6) < 1e-12);
  }));
});

Deno.test("readKv() takes every setting by its name of the wire", () => {
  const table = { layers: [{ role: "selected", budgets: [1, 3] }] };
  const wire = {
    policy: "quest",
    sinks: 1,
    window: 2,
    budget: "12.5%",
    interval: 3,
    neighbours: true,
    fetch: "ahead",
    recall_every: 4,
  };
  const read = {
    policy: "quest",
    sinks: 1,
    window: 2,
    budget: { share: 0.125 },
    interval: 3,
    neighbours: true,
    fetch: "ahead",
    recallEvery: 4,
  };
  assert.deepEqual(readKv({ ...wire, dense_layers: 5 }), { ...read, denseLayers: 5 });
  assert.deepEqual(readKv({ ...wire, table }), { ...read, table });
  assert.deepEqual(readKv({ budget: 7 }), { budget: { rows: 7 } });
  assert.deepEqual(readKv({}), {});
  assert.deepEqual(readKv({ policy: null, budget: null, table: null }), {});
});

Deno.test("readKv() refuses names of this program, texts for numbers and what is no object", () => {
  for (
    const [value, param] of [
      [5, ""],
      [[], ""],
      [null, ""],
      [{ denseLayers: 1 }, "denseLayers"],
      [{ dense_layer: 1 }, "dense_layer"],
      [{ budget: "768" }, "budget"],
      [{ budget: "0%" }, "budget"],
      [{ budget: "101%" }, "budget"],
      [{ budget: { rows: 5 } }, "budget"],
      [{ budget: true }, "budget"],
      [{ budget: -1 }, "budget"],
      [{ table: "file.json" }, "table"],
      [{ table: { layers: [{ role: "dense" }] }, dense_layers: 1 }, "table"],
    ] as const
  ) {
    assert.throws(() => readKv(value), (error) => {
      assert.ok(error instanceof KvSettingsError);
      assert.equal(error.param, `kv${param === "" ? "" : `.${param}`}`, JSON.stringify(value));
      return true;
    });
  }
  assert.throws(() => readKv({ dense_layer: 1 }), /did you mean `dense_layers`\?/);
});

Deno.test("the schemas give one issue with the path of what is wrong", () => {
  assert.deepEqual(kvSchema.parse({ policy: "loki" }), { policy: "loki" });
  const issue = kvSchema.safeParse({ table: { layers: [{ role: "x" }] } }).error?.issues[0];
  assert.deepEqual(issue?.path, ["table", "layers", 0, "role"]);
  assert.match(issue?.message ?? "", /^must be one of dense, window, selected, but is "x"/);
  const table = { layers: [{ role: "window" }] };
  assert.deepEqual(kvTableSchema.parse(table), table);
  assert.deepEqual(kvTableSchema.safeParse({}).error?.issues[0]?.path, ["layers"]);
  assert.throws(() => readTable({ layers: [{ role: "dense", budgets: [1] }] }), /selected only/);
});

Deno.test("wireSettings() gives what readKv() takes, and the same settings again", () => {
  assert.deepEqual(wireSettings(settingsOf({ policy: "quest", interval: 4 })), {
    policy: "quest",
    sinks: 64,
    window: 192,
    budget: 768,
    interval: 4,
    neighbours: true,
    dense_layers: 2,
    fetch: "in-step",
    recall_every: 0,
  });
  const role = fc.constantFrom("dense", "window", "selected");
  const layer = fc.oneof(
    fc.record({ role }),
    fc.record({
      role: fc.constant("selected"),
      budgets: fc.array(fc.integer({ min: 1, max: 999 }), { minLength: 2, maxLength: 2 }),
      interval: fc.integer({ min: 1, max: 9 }),
    }),
  );
  const request = fc.record({
    policy: fc.constantFrom(...POLICY_NAMES),
    budget: fc.nat(2000),
    interval: fc.integer({ min: 1, max: 3 }),
    neighbours: fc.boolean(),
    fetch: fc.constantFrom("in-step", "ahead"),
  }, { requiredKeys: ["policy"] });
  const shape = fc.oneof(
    fc.record({ dense_layers: fc.integer({ min: 0, max: 3 }) }),
    fc.record({
      table: fc.array(layer, { minLength: 3, maxLength: 3 }).map((layers) => ({ layers })),
    }),
  );
  fc.assert(
    fc.property(request, shape, (request, shape) => {
      // Nothing is predicted for the first layer.
      const first = "table" in shape ? shape.table.layers[0]!.role : null;
      const selects = first === "selected" || "dense_layers" in shape && shape.dense_layers === 0;
      fc.pre(request.policy !== "tokenbutler" || !selects);
      const wire = wireSettings(settingsOf(readKv({ ...request, ...shape })));
      const again = settingsOf(readKv(JSON.parse(JSON.stringify(wire))));
      const { layers, ...rest } = settingsOf(readKv({ ...request, ...shape }));
      const { layers: layersAgain, ...restAgain } = again;
      assert.deepEqual(restAgain, rest);
      assert.deepEqual(layersAgain.map((layer) => layer.role), layers.map((layer) => layer.role));
    }),
    { seed: 5 },
  );
});

Deno.test("wireSettings() shows a table with rows, or with factors on a share", () => {
  const table = {
    layers: [
      { role: "window" },
      { role: "selected", budgets: [100, 300] },
      { role: "selected" },
    ],
  } as const;
  const { dense_layers: _, ...plain } = {
    dense_layers: 0,
    ...wireSettings(settingsOf({ policy: "loki" })),
  };
  const rows = wireSettings(settingsOf({ policy: "loki", table }));
  assert.deepEqual(rows, {
    ...plain,
    budget: 200,
    table: {
      layers: [
        { role: "window" },
        { role: "selected", budgets: [100, 300] },
        { role: "selected", budgets: [200, 200] },
      ],
    },
  });
  const share = wireSettings(settingsOf({ policy: "loki", table, budget: { share: 0.5 } }));
  assert.deepEqual(share, {
    ...plain,
    budget: "50%",
    table: {
      layers: [
        { role: "window" },
        { role: "selected", weights: [0.5, 1.5] },
        { role: "selected", weights: [1, 1] },
      ],
    },
  });
});

Deno.test("wireDefaults() shows what is taken where a request says nothing", () => {
  const { dense_layers, policy, ...rest } = wireDefaults({}) as Record<string, unknown>;
  assert.equal(policy, null);
  assert.equal(dense_layers, 1);
  assert.deepEqual(rest, {
    sinks: 64,
    window: 192,
    budget: 768,
    interval: 1,
    neighbours: false,
    fetch: "in-step",
    recall_every: 0,
  });
  assert.equal(Reflect.get(wireDefaults({ policy: "quest" }), "dense_layers"), 2);
});

const REPORT: KvReport = {
  policy: "loki",
  settings: settingsOf({ policy: "loki" }),
  rowsPerStep: 1024,
  bytesPerStep: 100,
  residentShare: 0.75,
  tiers: { device: 1, host: 2, disk: 3 },
  recall: null,
  notes: [],
};

Deno.test("wireReport() leaves out what was not measured", () => {
  assert.deepEqual(wireReport(REPORT), {
    ...wireSettings(REPORT.settings),
    rows_per_step: 1024,
    bytes_per_step: 100,
    resident_share: 0.75,
    tiers: { device: 1, host: 2, disk: 3 },
  });
  const recall = { mass: 0.9, overlap: 0.5, steps: 2 };
  const full = wireReport({ ...REPORT, recall, notes: ["a"] });
  assert.deepEqual(full.recall, recall);
  assert.deepEqual(full.notes, ["a"]);
  // Restless layers matter where the others keep their rows.
  const restless = (interval: number) =>
    wireReport({ ...REPORT, settings: { ...REPORT.settings, interval, restless: [2] } });
  assert.deepEqual(restless(8).restless_layers, [2]);
  assert.ok(!("restless_layers" in restless(1)));
});

Deno.test("combineReports() weighs means by steps and sums tiers", () => {
  assert.equal(combineReports([]), null);
  assert.equal(combineReports([{ report: REPORT, steps: 1 }]), REPORT);
  const recall = (mass: number, steps: number) => ({ mass, overlap: mass / 2, steps });
  const other: KvReport = {
    ...REPORT,
    policy: "dense",
    rowsPerStep: 0,
    bytesPerStep: 500,
    residentShare: 0.25,
    notes: ["b"],
    recall: recall(0.5, 3),
  };
  const sum = combineReports([
    { report: { ...REPORT, recall: recall(0.9, 1), notes: ["b", "c"] }, steps: 3 },
    { report: other, steps: 1 },
    { report: other, steps: 0 },
  ]);
  assert.equal(sum?.rowsPerStep, 768);
  assert.equal(sum?.bytesPerStep, 200);
  assert.equal(sum?.residentShare, 0.625);
  assert.deepEqual(sum?.tiers, { device: 3, host: 6, disk: 9 });
  assert.deepEqual(sum?.recall?.steps, 7);
  assert.ok(Math.abs((sum?.recall?.mass ?? 0) - 3.9 / 7) < 1e-12);
  assert.match(sum?.notes[0] ?? "", /different policies: loki, dense/);
  assert.deepEqual(sum?.notes.slice(1), ["b", "c"]);
  assert.equal(sum?.policy, "loki");
  const still = combineReports([{ report: REPORT, steps: 0 }, { report: other, steps: 0 }]);
  assert.equal(still?.rowsPerStep, 512);
});
