import {
  attentionMassSpec,
  type AttentionMassVariant,
  attentionMassWorkgroups,
  type MassPlace,
  scoreListsSpec,
  scoreListsWorkgroups,
} from "../../src/gpu/ops/attention_mass.ts";
import { LIST_PARAMS, ROW_KEEPS } from "../../src/gpu/ops/list_params.ts";
import { lseReference, massReference } from "../reference/mass.ts";
import { poolReference } from "../reference/score.ts";
import { packCache } from "./_cache.ts";
import { fillKeys, fillQueries } from "./_list_keys.ts";
import { blankWords, type ListCase, listSetup, readLists, recipe } from "./_lists.ts";
import { assertClose, type Bounds, type Call, Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

/** Scores are sums and go through an exponential, which makes their error relative. */
const BOUNDS: Bounds = { nmse: 1e-10, max: 1e-4 };

/**
 * Adds the mass of a step to what was there, in pieces of `piece` positions, and compares.
 *
 * @param from Rows before this position do not count.
 */
async function check(rig: Rig, v: AttentionMassVariant, c: ListCase, piece: number, from = 0) {
  const random = new Random(c.seed);
  const setup = listSetup(rig, { ...c, keeps: ROW_KEEPS.mass, keepsFrom: from }, random);
  const { kvHeads, group, rows } = c;
  const { params, buffers, step } = setup;
  const keys = fillKeys(v, c, setup, random);
  const queries = fillQueries(v.headDim, c, random);
  const keysOf = (slot: number, h: number, end: number) =>
    Array.from({ length: end }, (_, position) => keys.row(slot, h, position));
  const seen = rows.map(({ slot, position }, row) =>
    Array.from({ length: kvHeads }, (_, h) =>
      queries.group(row, h).map((query) => ({
        query,
        position,
        lse: lseReference(query, keysOf(slot, h, position + 1)),
      })))
  );
  const lse = Float32Array.from(seen.flatMap((heads) => heads.flat()), (q) => q.lse);
  const impTable = Uint32Array.from(random.permutation(setup.slots * setup.maxPages));
  const lists = v.eachRow ? rows.length * kvHeads : kvHeads;
  const size = v.target === "store"
    ? setup.slots * setup.maxPages * kvHeads * params.importance_quads * 4
    : lists * params.mass_stride;
  const before = random.floats(size);
  const mass = rig.storage(before);
  const placeOf = (slot: number, list: number, position: number) =>
    v.target === "lists"
      ? list * params.mass_stride + position
      : (impTable[slot * setup.maxPages + Math.floor(position / 32)]! * kvHeads +
            list % kvHeads) * params.importance_quads * 4 + position % 32;

  const length = Math.max(...rows.map(({ position }) => position)) + 1;
  const qkv = rig.storage(queries.qkv);
  const calls: Call[] = [];
  for (let base = 0; base < length; base += piece) {
    const count = Math.min(piece, length - base);
    const { slot } = rows[0]!;
    const values = new Float32Array(Math.ceil(count / 32) * kvHeads * 32 * v.headDim).fill(NaN);
    for (let i = 0; v.source === "staging" && i < count; i++) {
      for (let h = 0; h < kvHeads; h++) {
        const at = ((Math.floor(i / 32) * kvHeads + h) * 32 + i % 32) * v.headDim;
        values.set(keys.row(slot, h, base + i), at);
      }
    }
    calls.push({
      spec: attentionMassSpec(v),
      parts: [
        qkv,
        rig.storage(v.source === "staging" ? packCache(v.kvType, values) : keys.words),
        buffers.rows,
        rig.storage(lse),
        mass,
        buffers.pages,
        rig.storage(impTable),
        rig.uniform(LIST_PARAMS.pack({ ...params, base, count })),
      ],
      step,
      workgroups: attentionMassWorkgroups(v, kvHeads, rows.length, count),
    });
  }
  await rig.run(calls);
  const want = Array.from(before);
  const add = (slot: number, list: number, group: (typeof seen)[number][number]) => {
    const end = Math.max(...group.map(({ position }) => position)) + 1;
    massReference(group, keysOf(slot, list % kvHeads, end)).forEach((value, position) =>
      want[placeOf(slot, list, position)]! += value
    );
  };
  if (v.eachRow) {
    rows.forEach(({ slot }, row) =>
      seen[row]!.forEach((group, h) => add(slot, row * kvHeads + h, group))
    );
  } else {
    const counted = seen.filter((_, row) => rows[row]!.position >= from);
    for (let h = 0; h < kvHeads; h++) add(rows[0]!.slot, h, counted.flatMap((heads) => heads[h]!));
  }
  const where = `${attentionMassSpec(v).variant}, ${group} a kv head, seed ${c.seed}`;
  assertClose(await rig.floats(mass, size), want, BOUNDS, where);
}

type Shape = Omit<AttentionMassVariant, "source" | "eachRow"> & { readonly kvHeads: number };

const SHAPES: readonly Shape[] = [
  {
    headDim: 64,
    group: 3,
    kvType: "f16",
    lanes: 8,
    turns: 8,
    queryRows: 2,
    shared: false,
    target: "store",
    kvHeads: 3,
  },
  {
    headDim: 16,
    group: 4,
    kvType: "f32",
    lanes: 64,
    turns: 1,
    queryRows: 2,
    shared: true,
    target: "lists",
    kvHeads: 2,
  },
  {
    headDim: 80,
    group: 1,
    kvType: "f32",
    lanes: 32,
    turns: 2,
    queryRows: 1,
    shared: true,
    target: "store",
    kvHeads: 4,
  },
];

Deno.test("attention mass of a prompt's rows agrees, in the cache and in pieces", async () => {
  using rig = await Rig.create();
  for (const { kvHeads, ...shape } of SHAPES) {
    for (
      const [source, first, count, piece] of [
        ["pages", 0, 37, 1000],
        ["pages", 91, 9, 64],
        ["staging", 75, 26, 32],
      ] as const
    ) {
      const rows = Array.from({ length: count }, (_, i) => ({ slot: 1, position: first + i }));
      const c = { kvHeads, group: shape.group, rows, recipes: {}, seed: count, firstRow: 3 };
      await check(rig, { ...shape, source, eachRow: false }, c, piece);
      await check(rig, { ...shape, source, eachRow: false }, c, piece, first + 5);
    }
  }
});

Deno.test("attention mass of rows of different sequences agrees", async () => {
  using rig = await Rig.create();
  for (const { kvHeads, ...shape } of SHAPES) {
    const rows = [[3, 130], [0, 0], [1, 31], [2, 64]]
      .map(([slot, position]) => ({ slot: slot!, position: position! }));
    const c = { kvHeads, group: shape.group, rows, recipes: {}, seed: 5, firstRow: 1 };
    const v = { ...shape, source: "pages", eachRow: true, queryRows: 1 } as const;
    await check(rig, v, c, 1000);
  }
});

/** Turns mass into scores and compares. */
async function checkLists(rig: Rig, place: MassPlace, pool: boolean, lanes: number, c: ListCase) {
  const random = new Random(c.seed);
  const setup = listSetup(rig, c, random);
  const { kvHeads, rows } = c;
  const { params, buffers } = setup;
  const size = place.target === "store"
    ? setup.slots * setup.maxPages * kvHeads * params.importance_quads * 4
    : (place.eachRow ? rows.length : 1) * kvHeads * params.mass_stride;
  const mass = random.floats(size);
  const scores = rig.storage(blankWords(rows.length * kvHeads * params.score_stride));
  const v = { ...place, pool, lanes };
  await rig.run([{
    spec: scoreListsSpec(v),
    parts: [
      rig.storage(mass),
      buffers.pages,
      buffers.rows,
      buffers.recipes,
      scores,
      buffers.params,
    ],
    step: setup.step,
    workgroups: scoreListsWorkgroups(
      v,
      kvHeads,
      rows.length,
      Math.max(...setup.candidates.map(({ to }) => to)),
    ),
  }]);
  const words = await rig.words(scores, rows.length * kvHeads * params.score_stride);
  const lists = readLists(setup, c, new Uint32Array(words));
  const want = rows.flatMap(({ slot }, row) =>
    Array.from({ length: kvHeads }, (_, h) => {
      const { from, to } = setup.candidates[row]!;
      const values = Array.from({ length: to }, (_, position) =>
        mass[
          place.target === "store"
            ? (setup.pageOf(slot, position) * kvHeads + h) * params.importance_quads * 4 +
              position % 32
            : (place.eachRow ? row * kvHeads + h : h) * params.mass_stride + position
        ]!);
      return (pool ? poolReference(values) : values).slice(from);
    })
  );
  const where = `${scoreListsSpec(v).variant}, seed ${c.seed}`;
  assertClose(lists.flat(), want.flat(), { nmse: 1e-12, max: 1e-6 }, where);
}

Deno.test("attention mass becomes scores, averaged over five neighbours or as it is", async () => {
  using rig = await Rig.create();
  const rows = [[3, 130], [0, 6], [1, 31], [2, 400], [5, 40]]
    .map(([slot, position]) => ({ slot: slot!, position: position! }));
  const recipes = {
    3: recipe("mass", 2, 0, 32, 9),
    0: recipe("mass", 2, 0, 6, 9),
    1: recipe("pages", 2, 0, 6, 9),
    2: recipe("mass", 2, 64, 33, 9),
    5: recipe("mass", 2, 3, 2, 9),
  };
  const c: ListCase = { kvHeads: 2, group: 1, rows, recipes, seed: 3, mode: "mass" };
  for (const lanes of [8, 64]) {
    await checkLists(rig, { target: "lists", eachRow: true }, true, lanes, c);
    await checkLists(rig, { target: "lists", eachRow: false }, lanes === 8, lanes, c);
    await checkLists(rig, { target: "store", eachRow: false }, false, lanes, c);
  }
});

Deno.test("attentionMassSpec() refuses what the kernel cannot take", () => {
  const { kvHeads: _, ...shape } = SHAPES[0]!;
  const v: AttentionMassVariant = { ...shape, source: "pages", eachRow: false };
  assert.throws(() => attentionMassSpec({ ...v, eachRow: true }), /share no keys/);
  assert.throws(() => attentionMassSpec({ ...v, headDim: 20 }), /head size 20/);
});
