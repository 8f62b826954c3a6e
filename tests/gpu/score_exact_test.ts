import { LIST_PARAMS } from "../../src/gpu/ops/list_params.ts";
import {
  scoreExactSpec,
  type ScoreExactVariant,
  scoreExactWorkgroups,
} from "../../src/gpu/ops/score_exact.ts";
import { scoreReference } from "../reference/score.ts";
import { packCache } from "./_cache.ts";
import { fillKeys, fillQueries } from "./_list_keys.ts";
import { blankWords, type ListCase, listSetup, readLists, recipe } from "./_lists.ts";
import { assertClose, type Bounds, type Call, Random, Rig } from "./_rig.ts";

/** Sums of up to 128 products. */
const BOUNDS: Bounds = { nmse: 1e-11, max: 3e-5 };

/** Scores through the page table, or from pieces of `piece` positions, and compares. */
async function check(rig: Rig, v: ScoreExactVariant, c: ListCase, piece = 0) {
  const random = new Random(c.seed);
  const setup = listSetup(rig, c, random);
  const { kvHeads, rows } = c;
  const keys = fillKeys(v, c, setup, random);
  const queries = fillQueries(v.headDim, c, random);
  const qkv = rig.storage(queries.qkv);
  const scores = rig.storage(blankWords(rows.length * kvHeads * setup.params.score_stride));
  const end = Math.max(...setup.candidates.map(({ to }) => to));
  const { buffers, step } = setup;
  const spec = scoreExactSpec(v);
  const calls: Call[] = [];
  if (v.source === "pages") {
    calls.push({
      spec,
      parts: [
        qkv,
        rig.storage(keys.words),
        buffers.pages,
        buffers.rows,
        buffers.recipes,
        scores,
        buffers.params,
      ],
      step,
      workgroups: scoreExactWorkgroups(v, kvHeads, rows.length, end),
    });
  } else {
    const { slot, position } = rows[0]!;
    for (let base = 0; base <= position; base += piece) {
      const count = Math.min(piece, position + 1 - base);
      const blocks = Math.ceil(count / 32);
      const values = new Float32Array(blocks * kvHeads * 32 * v.headDim).fill(NaN);
      for (let i = 0; i < count; i++) {
        for (let h = 0; h < kvHeads; h++) {
          const at = ((Math.floor(i / 32) * kvHeads + h) * 32 + i % 32) * v.headDim;
          values.set(keys.row(slot, h, base + i), at);
        }
      }
      const params = rig.uniform(LIST_PARAMS.pack({ ...setup.params, base, count }));
      const staging = rig.storage(packCache(v.kvType, values));
      calls.push({
        spec,
        parts: [qkv, staging, buffers.rows, buffers.recipes, scores, params],
        step,
        workgroups: scoreExactWorkgroups(v, kvHeads, rows.length, count),
      });
    }
  }
  await rig.run(calls);
  const words = await rig.words(scores, rows.length * kvHeads * setup.params.score_stride);
  const lists = readLists(setup, c, new Uint32Array(words));
  const want = rows.flatMap(({ slot }, row) =>
    Array.from({ length: kvHeads }, (_, h) => {
      const { from, to } = setup.candidates[row]!;
      return Array.from(
        { length: to - from },
        (_, i) =>
          scoreReference(queries.group(row, h), keys.row(slot, h, from + i), v.headDim ** -0.5),
      );
    })
  );
  assertClose(lists.flat(), want.flat(), BOUNDS, `${spec.variant}, seed ${c.seed}`);
}

type Shape = Omit<ScoreExactVariant, "source"> & { readonly kvHeads: number };

const SHAPES: readonly Shape[] = [
  { headDim: 64, group: 3, kvType: "f16", lanes: 8, turns: 4, shared: false, kvHeads: 3 },
  { headDim: 128, group: 1, kvType: "f32", lanes: 64, turns: 1, shared: true, kvHeads: 1 },
  { headDim: 16, group: 8, kvType: "f32", lanes: 8, turns: 1, shared: false, kvHeads: 2 },
  { headDim: 80, group: 2, kvType: "f16", lanes: 32, turns: 1, shared: true, kvHeads: 4 },
];

Deno.test("exact scores agree, with candidates that begin and end anywhere", async () => {
  using rig = await Rig.create();
  for (const shape of SHAPES) {
    const { kvHeads, group, ...rest } = shape;
    const v: ScoreExactVariant = { ...rest, group, source: "pages" };
    const rows = [[3, 350], [0, 31], [4, 100], [2, 277], [5, 64], [1, 0], [6, 520]]
      .map(([slot, position]) => ({ slot: slot!, position: position! }));
    const recipes = {
      3: recipe(kvHeads, 64, 192, 9),
      0: recipe(kvHeads, 0, 1, 9),
      2: recipe(kvHeads, 5, 33, 9),
      5: recipe(kvHeads, 63, 0, 9),
      1: recipe(kvHeads, 3, 2, 9),
      6: recipe(kvHeads, 31, 7, 9),
    };
    await check(rig, v, { kvHeads, group, rows, recipes, seed: 21, firstRow: 2 });
  }
});

Deno.test("exact scores of keys that pass by in pieces agree", async () => {
  using rig = await Rig.create();
  for (const shape of SHAPES) {
    const { kvHeads, group, ...rest } = shape;
    const v: ScoreExactVariant = { ...rest, group, source: "staging" };
    for (const [position, piece] of [[333, 96], [160, 1024], [255, 128]] as const) {
      await check(rig, v, {
        kvHeads,
        group,
        rows: [{ slot: 1, position }],
        recipes: { 1: recipe(kvHeads, 41, 13, 9) },
        seed: position,
      }, piece);
    }
  }
});
