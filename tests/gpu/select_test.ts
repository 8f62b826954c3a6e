import {
  candidatesOf,
  maximaAt,
  PICKS_ONLY,
  type Recipe,
  recipeStride,
  scoreStride,
  selectionHeader,
} from "../../src/gpu/ops/list_params.ts";
import { selectSpec, type SelectVariant } from "../../src/gpu/ops/select.ts";
import { scoreKey, selectReference } from "../reference/select.ts";
import { blankWords, type ListCase, listSetup, recipe } from "./_lists.ts";
import { Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

/** Score of candidate i of n. */
type Scores = (random: Random, i: number, n: number) => number;

const bell: Scores = (random) => random.floats(1, 3)[0]!;

/** Distributions that a search could stumble over. */
const SCORES: Readonly<Record<string, Scores>> = {
  "a bell": bell,
  "all equal": () => 1.5,
  "all zeros of either sign": (random) => random.next() < 0.5 ? 0 : -0,
  "all -infinity": () => -Infinity,
  "all NaN": () => NaN,
  "infinities and NaN among numbers": (random) =>
    [Infinity, -Infinity, NaN, 1, -1, 0][random.int(0, 5)]!,
  "two values": (random) => random.next() < 0.01 ? 2 : 1,
  "rising": (_, i) => i,
  "falling": (_, i) => -i,
  "huge range": (random) => (random.next() - 0.5) * 10 ** random.int(-44, 38),
  "one last bit apart": (random) => 1 + random.int(0, 40) * 2 ** -23,
  "a hot stretch": (random, i, n) =>
    i > n / 2 && i < n / 2 + 300 ? random.next() + 9 : random.next(),
  "one hot row in each eight": (random, i) => i % 8 === 5 ? random.next() + 9 : random.next(),
  "negative": (random) => -random.next() - 1,
};

const VARIANTS: readonly SelectVariant[] = [
  { unit: "rows", lanes: 8 },
  { unit: "rows", lanes: 256 },
  { unit: "pages", lanes: 8 },
  { unit: "pages", lanes: 64 },
];

/**
 * Runs a selection and compares everything it writes.
 *
 * @param later Slots whose selection stays as it is.
 */
async function check(
  rig: Rig,
  v: SelectVariant,
  c: ListCase,
  scores: Scores,
  where: string,
  later: readonly number[] = [],
) {
  const random = new Random(c.seed);
  const setup = listSetup(rig, c, random);
  const { kvHeads, rows, listCapacity = 64 } = c;
  const { score_stride, maxima_at, selection_stride } = setup.params;
  const perItem = v.unit === "pages" ? 16 : 1;
  const words = blankWords(rows.length * kvHeads * score_stride);
  const floats = new Float32Array(words.buffer);
  const lists = setup.candidates.flatMap(({ from, to }, row) =>
    Array.from({ length: kvHeads }, (_, h) => {
      const start = (row * kvHeads + h) * score_stride;
      const list = Float32Array.from({ length: to - from }, (_, i) => scores(random, i, to - from));
      if (from === to) return [];
      floats.set(list, start + from);
      const first = Math.floor(from / 32) * 32;
      const none = scoreKey(-Infinity);
      words.fill(none, start + maxima_at + first / 8, start + maxima_at + Math.ceil(to / 32) * 4);
      list.forEach((score, i) => {
        const at = start + maxima_at + Math.floor((from + i) / 8);
        words[at] = Math.max(words[at]!, scoreKey(score));
      });
      return Array.from(list);
    })
  );
  const scratch = rig.storage(blankWords(2 * words.length));
  const picked = rig.storage(blankWords(setup.slots * kvHeads * listCapacity));
  const counts = rig.storage(blankWords(setup.slots * kvHeads));
  const selection = rig.storage(blankWords(setup.slots * selection_stride));
  const { buffers } = setup;
  for (const slot of later) {
    const at = (slot * recipeStride(kvHeads) + 3) * 4;
    rig.kernels.device.queue.writeBuffer(buffers.recipes, at, Uint32Array.of(PICKS_ONLY));
  }
  await rig.run([{
    spec: selectSpec(v),
    parts: [
      rig.storage(words),
      buffers.rows,
      buffers.recipes,
      buffers.pages,
      scratch,
      picked,
      counts,
      selection,
      buffers.params,
    ],
    step: setup.step,
    workgroups: rows.length * kvHeads,
  }]);

  const wantPicked = blankWords(setup.slots * kvHeads * listCapacity);
  const wantCounts = blankWords(setup.slots * kvHeads);
  const want = blankWords(setup.slots * selection_stride);
  rows.forEach(({ slot, position }, row) => {
    const entry = c.recipes[slot];
    if (entry === undefined || entry.mode === "rest") return;
    const { from, to } = setup.candidates[row]!;
    const n = position + 1;
    const at = slot * selection_stride;
    const uses = !later.includes(slot);
    const sinks = Math.min(entry.first * perItem, n);
    const start = v.unit === "pages" ? to * 16 : Math.max(sinks, n - Math.min(entry.window, n));
    if (uses) want.set([1, sinks, start, entry.window], at);
    for (let h = 0; h < kvHeads; h++) {
      const index = row * kvHeads + h;
      const budget = Math.min(entry.budgets[h]!, Math.floor(listCapacity / perItem));
      const best = selectReference(lists[index]!, from, budget)
        .flatMap((item) => Array.from({ length: perItem }, (_, i) => item * perItem + i));
      wantPicked.set(best, (slot * kvHeads + h) * listCapacity);
      wantCounts[slot * kvHeads + h] = best.length;
      if (!uses) continue;
      want[at + 4 + h] = best.length;
      const ids = best.map((p) => setup.pageOf(slot, p) * 32 + p % 32);
      want.set(ids, at + selectionHeader(kvHeads) + h * listCapacity);
    }
  });
  const name = `${selectSpec(v).variant}, ${where}, seed ${c.seed}`;
  assert.deepEqual(await rig.words(counts, wantCounts.length), wantCounts, `${name}: counts`);
  assert.deepEqual(await rig.words(picked, wantPicked.length), wantPicked, `${name}: picked`);
  const gotSelection = await rig.words(selection, want.length);
  // Padding after the counts is nobody's.
  assert.deepEqual(gotSelection, want, `${name}: selection`);
}

for (const v of VARIANTS) {
  const unit = v.unit === "pages" ? 16 : 1;
  const mode = v.unit === "pages" ? "pages" : "projected";
  Deno.test(`selection of ${v.unit} is exact whatever the scores: ${v.lanes} lanes`, async () => {
    using rig = await Rig.create();
    for (const [name, scores] of Object.entries(SCORES)) {
      // Bounds from maxima of thirty-two, of eight, and none.
      for (const budget of [20, 90, 300]) {
        const c: ListCase = {
          kvHeads: 2,
          group: 1,
          rows: [{ slot: 1, position: 1777 * unit + 5 }],
          recipes: { 1: recipe(mode, 2, 13, 45, budget) },
          listCapacity: 320 * unit,
          seed: budget,
        };
        await check(rig, v, c, scores, `${name}, ${budget}`);
      }
    }
  });

  Deno.test(`selection of ${v.unit} keeps slots apart: ${v.lanes} lanes`, async () => {
    using rig = await Rig.create();
    const ragged = (first: number, window: number, budgets: number[]): Recipe => ({
      mode,
      first,
      window,
      budgets,
    });
    const recipes: Record<number, Recipe> = {
      0: ragged(0, 1, [0, 7, 1, 500]),
      2: ragged(4, 40, [33, 0, 64, 2]),
      3: ragged(70, 9, [5, 6, 7, 8]),
      5: ragged(32, 32, [1, 2, 3, 4]),
      // All positions are sinks, or in the window.
      6: ragged(5000, 1, [3, 3, 3, 3]),
      7: ragged(3, 5000, [3, 3, 3, 3]),
    };
    const rows = [[3, 300], [0, 31], [4, 100], [2, 77], [5, 64], [6, 90], [7, 90], [1, 0]]
      .map(([slot, position]) => ({ slot: slot!, position: position! * unit }));
    for (const seed of [1, 2, 3]) {
      const c = { kvHeads: 4, group: 1, rows, recipes, firstRow: seed % 3, seed };
      await check(
        rig,
        v,
        { ...c, listCapacity: 64 * unit },
        bell,
        "many slots",
        [[], [2, 5]][seed % 2],
      );
    }
  });

  Deno.test(`selection of ${v.unit} takes any length and budget: ${v.lanes} lanes`, async () => {
    using rig = await Rig.create();
    const random = new Random(9);
    for (let seed = 0; seed < 40; seed++) {
      const kvHeads = random.int(1, 3);
      const position = random.int(0, 700) * unit + random.int(0, unit - 1);
      const slot = random.int(0, 2);
      const c: ListCase = {
        kvHeads,
        group: 1,
        rows: [{ slot, position }],
        recipes: {
          [slot]: recipe(mode, kvHeads, random.int(0, 40), random.int(0, 99), random.int(0, 200)),
        },
        listCapacity: random.int(1, 13) * 16 * unit,
        seed,
      };
      const scores = Object.values(SCORES)[seed % Object.keys(SCORES).length]!;
      await check(rig, v, c, scores, `position ${position}`);
    }
  });
}

Deno.test("selection is exact over 131,072 rows, also where all scores are equal", async () => {
  using rig = await Rig.create();
  for (const [name, scores] of [["a bell", bell], ["all equal", () => 1] as const] as const) {
    const c: ListCase = {
      kvHeads: 1,
      group: 1,
      rows: [{ slot: 0, position: 131071 }],
      recipes: { 0: recipe("mass", 1, 64, 192, 768) },
      listCapacity: 768,
      seed: 1,
    };
    await check(rig, { unit: "rows", lanes: 8 }, c, scores, name);
  }
});

Deno.test("candidatesOf() leaves out sinks, window and slots that rest", () => {
  const entry = recipe("exact", 1, 4, 3, 9);
  assert.deepEqual(candidatesOf(entry, 9), { from: 4, to: 7 });
  assert.deepEqual(candidatesOf(entry, 6), { from: 4, to: 4 });
  assert.deepEqual(candidatesOf(entry, 0), { from: 4, to: 4 });
  assert.deepEqual(candidatesOf({ ...entry, mode: "rest" }, 99), { from: 4, to: 4 });
  assert.deepEqual(candidatesOf({ ...entry, first: 0, mode: "pages" }, 47), { from: 0, to: 2 });
  assert.deepEqual(candidatesOf({ ...entry, first: 0, mode: "pages" }, 48), { from: 0, to: 3 });
});

Deno.test("lists have room for a maximum of each eight scores of whole pages", () => {
  assert.equal(maximaAt(33), 64);
  assert.equal(scoreStride(33), 72);
  assert.equal(scoreStride(32), 36);
});

Deno.test("selectSpec() refuses lanes that bins cannot be shared among", () => {
  assert.throws(() => selectSpec({ unit: "rows", lanes: 48 }), /not 48/);
  assert.throws(() => selectSpec({ unit: "rows", lanes: 512 }), /not 512/);
});
