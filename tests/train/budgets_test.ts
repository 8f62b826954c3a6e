import { budgetsOf, restlessLayers, tellsRestless } from "../../src/train/budgets.ts";
import type { HeadMeasure } from "../../src/train/measure.ts";
import { MEASURED_COUNTS, TABLE_MEANS } from "../../src/train/settings.ts";
import { assert, fc } from "std-testing";

const KV_HEADS = 2;
const LAYERS = 3;

/** Heads whose first so many rows add what the curve says. */
const headsOf = (curves: readonly ((count: number) => number)[]): HeadMeasure[] =>
  curves.map((curve) => {
    const added = MEASURED_COUNTS.map(curve);
    return {
      recall: 0,
      recentRecall: 0,
      base: 0,
      added,
      best: added,
      mass: 0,
      bestMass: 0,
      rows: 1,
      kept: null,
    };
  });

const anyCurves = fc.array(fc.double({ min: 0.01, max: 4, noNaN: true }), {
  minLength: (LAYERS - 1) * KV_HEADS,
  maxLength: (LAYERS - 1) * KV_HEADS,
}).map((rates) => rates.map((rate) => (count: number) => 1 - 1 / (1 + rate * count)));

Deno.test("budgetsOf() keeps every mean, and what a head has at a smaller one", () => {
  fc.assert(fc.property(anyCurves, anyCurves, (few, many) => {
    const { roles, points } = budgetsOf(
      { heads: headsOf(few), tokens: 1024 },
      { heads: headsOf(many), tokens: 2048 },
      KV_HEADS,
      "dense",
    );
    assert.deepEqual(roles, ["dense", "selected", "selected"]);
    assert.deepEqual(points.map(({ mean }) => mean), TABLE_MEANS);
    points.forEach(({ mean, rows }, i) => {
      const sum = rows.flat().reduce((a, b) => a + b, 0);
      assert.equal(sum, mean * (LAYERS - 1) * KV_HEADS);
      const before = points[i - 1]?.rows.flat() ?? [];
      assert.ok(rows.flat().every((count, head) => count >= (before[head] ?? 0)));
    });
  }));
});

Deno.test("budgetsOf() measures small budgets on short windows and large ones on long windows", () => {
  const flat = (count: number) => Math.min(1, count / 400);
  const steep = (count: number) => Math.min(1, count / 4);
  const table = (few: readonly ((count: number) => number)[], many: typeof few) =>
    budgetsOf(
      { heads: headsOf(few), tokens: 1024 },
      { heads: headsOf(many), tokens: 2048 },
      KV_HEADS,
      "dense",
    ).points;
  const wide = (count: number) => Math.min(2, count / 500);
  const short = table([flat, steep, steep, steep], [wide, steep, steep, steep]);
  const other = table([flat, steep, steep, steep], [steep, wide, steep, steep]);
  short.forEach(({ mean, rows }, i) => {
    if (mean <= 256) assert.deepEqual(rows, other[i]!.rows);
    else assert.notDeepEqual(rows, other[i]!.rows);
  });
});

Deno.test("a layer is restless if one of its heads misses much more with rows of an earlier step", () => {
  const heads = headsOf(Array.from({ length: 8 }, () => () => 0));
  const kept = [[0.01, 0.04], [0.1, 0.2], [0.001, 0.01], [0.002, 0.05], null, [0.3, 0.9]] as const;
  const measured = heads.map((head, i) => {
    const found = kept[i] ?? null;
    return found === null ? head : {
      ...head,
      kept: { rows: 64, missedFresh: found[0], missedKept: found[1] },
    };
  });
  // Three times as much, twice; more often but next to nothing, very much more; unknown, very much.
  assert.deepEqual(restlessLayers(measured, KV_HEADS), [1, 2, 3]);
  assert.deepEqual(restlessLayers(measured.slice(1, 3), 1), []);
  const known = measured.map((head) => ({
    ...head,
    kept: head.kept ?? { rows: 64, missedFresh: 0.1, missedKept: 0.1 },
  }));
  const files = { heads: known, tokens: 2048 };
  const calm = {
    heads: known.map((head) => ({ ...head, kept: { ...head.kept, missedKept: 0 } })),
    tokens: 2048,
  };
  const restlessOf = (...args: [typeof files, typeof files]) =>
    budgetsOf(...args, KV_HEADS, "dense").restless;
  assert.deepEqual(restlessOf(calm, files), [1, 2, 3]);
  assert.equal(restlessOf(files, calm), undefined);
  // Rows of long windows lie too far apart.
  const far = {
    heads: known.map((head) => ({ ...head, kept: { ...head.kept, rows: 63 } })),
    tokens: 2048,
  };
  assert.deepEqual(restlessOf(files, far), [1, 2, 3]);
  assert.equal(restlessOf(far, far), undefined);
  assert.ok(tellsRestless(known) && !tellsRestless(far.heads) && !tellsRestless(heads));
});
