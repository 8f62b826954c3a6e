import { POLICY_NAMES } from "../../src/butler/settings.ts";
import { attendedRows, SlotView } from "../../src/butler/slots.ts";
import {
  caseName,
  isWhole,
  pplCases,
  type PplFigure,
  settingsOfCase,
  timesDense,
  withWindow,
} from "../../src/eval/ppl.ts";
import { tableOf } from "../butler/_tables.ts";
import { assert } from "std-testing";

const TOTALS = [64, 128, 256, 512];
const MODEL = { numLayers: 4, numKvHeads: 2 };
const TABLE = tableOf(["window", "selected", "selected", "selected"], [
  [[0, 0], [8, 4], [0, 16], [2, 6]],
  [[0, 0], [128, 64], [0, 300], [20, 70]],
]);
const SITUATION = { fits: true, canProject: true, canPredict: true, budgetTable: TABLE };

Deno.test("every policy has the same number of rows", () => {
  const cases = pplCases(POLICY_NAMES, TOTALS, [1], [true, false]);
  assert.deepEqual(cases[0], { policy: "dense", total: null, table: null, interval: 1 });
  assert.equal(cases.length, 1 + TOTALS.length * 8);
  for (const of of cases.slice(1)) {
    const settings = settingsOfCase(of, { sinks: 4, window: 32 }, MODEL, SITUATION);
    const chosen = settings.layers.flatMap(({ role }, layer) => role === "dense" ? [] : [layer]);
    // Each policy's own number of leading layers that attend to everything.
    const dense = of.policy === "quest" ? 2 : of.table === true ? 0 : 1;
    assert.equal(MODEL.numLayers - chosen.length, dense, caseName(of));
    for (const n of [1025, 1400, 2047]) {
      const view = new SlotView(settings);
      view.advance(n);
      const rows = chosen.map((layer) => attendedRows(view.layer(layer), n));
      const mean = rows.reduce((sum, count) => sum + count, 0) / rows.length;
      const name = `${caseName(of)}, ${of.total} of ${n} rows: ${rows}`;
      // Pages are whole, but for the newest one.
      if (of.policy === "quest") assert.ok(mean <= of.total! && mean > of.total! - 16, name);
      else assert.ok(Math.abs(mean - of.total!) < 1e-9, name);
    }
  }
});

Deno.test("what is chosen once, or never, is not measured at other intervals", () => {
  const cases = pplCases(
    ["dense", "streaming", "snapkv", "h2o", "tokenbutler"],
    [64],
    [1, 8],
    [false],
  );
  assert.deepEqual(cases.map(caseName), [
    "dense",
    "streaming",
    "snapkv",
    "h2o",
    "h2o, interval 8",
    "tokenbutler (same B for all heads)",
    "tokenbutler (same B for all heads), interval 8",
  ]);
});

Deno.test("figures add up window by window", () => {
  const [dense, other] = pplCases(["oracle"], [64], [1], [false]);
  const empty = { text: "a", windows: 2, nlls: [], rows: 0, nll: 0 };
  const figures = [[[1, 3], [2, 4]], [[2, 4], [3, 4]]].map((windows, i): PplFigure => {
    const half = withWindow({ ...(i === 0 ? dense! : other!), ...empty }, windows[0]!);
    assert.ok(!isWhole(half));
    return withWindow(half, windows[1]!);
  });
  assert.ok(figures.every(isWhole));
  assert.deepEqual(figures.map(({ nll, nlls, rows }) => [nll, nlls, rows]), [
    [2.5, [2, 3], 4],
    [3.25, [3, 3.5], 4],
  ]);
  assert.ok(Math.abs(timesDense(figures[1]!, figures)! - Math.exp(0.75)) < 1e-12);
  assert.equal(timesDense({ ...figures[1]!, text: "b" }, figures), null);
});
