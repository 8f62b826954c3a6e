import {
  boundsQuads,
  pageBoundsSpec,
  scorePagesSpec,
  type ScorePagesVariant,
  scorePagesWorkgroups,
} from "../../src/gpu/ops/page_bounds.ts";
import { pageScoreReference } from "../reference/score.ts";
import { unpackCache } from "./_cache.ts";
import { fillKeys, fillQueries } from "./_list_keys.ts";
import { blankWords, type ListCase, listSetup, readLists, recipe } from "./_lists.ts";
import { assertClose, F32_BOUNDS, Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

type Shape = ScorePagesVariant & { readonly kvHeads: number };

const SHAPES: readonly Shape[] = [
  { headDim: 64, group: 3, kvType: "f16", lanes: 8, kvHeads: 3 },
  { headDim: 128, group: 1, kvType: "f32", lanes: 32, kvHeads: 1 },
  { headDim: 16, group: 8, kvType: "f32", lanes: 8, kvHeads: 2 },
  { headDim: 80, group: 2, kvType: "f16", lanes: 64, kvHeads: 4 },
];

/**
 * Makes the bounds of a prompt's rows chunk by chunk, checks them, and scores the pages for the step's
 * last row.
 */
async function check(rig: Rig, shape: Shape, chunks: readonly number[], seed: number) {
  const { kvHeads, group, headDim, kvType } = shape;
  const quads = Math.max(64, boundsQuads(headDim, kvType));
  const random = new Random(seed);
  const slot = 2;
  const length = chunks.reduce((sum, count) => sum + count, 0);
  const all = Array.from({ length }, (_, position) => ({ slot, position }));
  const recipes = { [slot]: recipe(kvHeads, 0, 1, 3) };
  const whole: ListCase = {
    kvHeads,
    group,
    rows: all,
    recipes,
    seed,
    unit: "pages",
    importanceQuads: quads,
  };
  const setup = listSetup(rig, whole, random);
  const keys = fillKeys(shape, whole, setup, random);
  const cache = rig.storage(keys.words);
  const impTable = Uint32Array.from(random.permutation(setup.slots * setup.maxPages));
  const impPages = rig.storage(impTable);
  const size = setup.slots * setup.maxPages * kvHeads * quads * 4;
  const store = rig.storage(blankWords(size));
  const spec = pageBoundsSpec(shape);
  const { buffers } = setup;
  let done = 0;
  const calls = chunks.map((count) => {
    const first = done;
    done += count;
    return {
      spec,
      parts: [cache, buffers.pages, buffers.rows, impPages, store, buffers.params],
      step: { num_rows: count, first_row: first },
      workgroups: count * kvHeads,
    };
  });
  await rig.run(calls);
  const words = new Uint32Array(await rig.words(store, size));
  const bounds = Array.from(
    { length: kvHeads },
    (_, h) =>
      Array.from({ length: Math.ceil(length / 16) }, (_, page) => {
        const at = (impTable[slot * setup.maxPages + Math.floor(page / 2)]! * kvHeads + h) * quads *
          4;
        const wordsOfRow = headDim / (kvType === "f16" ? 2 : 1);
        const start = at + page % 2 * 2 * wordsOfRow;
        const values = unpackCache(kvType, words.slice(start, start + 2 * wordsOfRow));
        const rows = Array.from(
          { length: Math.min(16, length - page * 16) },
          (_, i) => keys.row(slot, h, page * 16 + i),
        );
        const minima = rows[0]!.map((_, d) => Math.min(...rows.map((row) => row[d]!)));
        const maxima = rows[0]!.map((_, d) => Math.max(...rows.map((row) => row[d]!)));
        const where = `${spec.variant}, seed ${seed}, page ${page}`;
        assert.deepEqual(Array.from(values), [...minima, ...maxima], where);
        return { minima, maxima };
      }),
  );

  const rows = [{ slot, position: length - 1 }];
  const c: ListCase = { ...whole, rows };
  const queries = fillQueries(headDim, c, random);
  const last = { ...setup, candidates: setup.candidates.slice(-1) };
  const scores = rig.storage(blankWords(kvHeads * setup.params.score_stride));
  await rig.run([{
    spec: scorePagesSpec(shape),
    parts: [
      rig.storage(queries.qkv),
      store,
      impPages,
      buffers.rows,
      buffers.recipes,
      scores,
      buffers.params,
    ],
    step: { num_rows: 1, first_row: length - 1 },
    workgroups: scorePagesWorkgroups(shape, kvHeads, 1, last.candidates[0]!.to),
  }]);
  const listWords = await rig.words(scores, kvHeads * setup.params.score_stride);
  const lists = readLists(last, c, new Uint32Array(listWords));
  const want = bounds.flatMap((pages, h) =>
    pages.slice(0, Math.floor((length - 1) / 16)).map(({ minima, maxima }) =>
      pageScoreReference(queries.group(0, h), minima, maxima)
    )
  );
  assertClose(lists.flat(), want, F32_BOUNDS, `${scorePagesSpec(shape).variant}, seed ${seed}`);
}

Deno.test("bounds of pages, made in chunks of any length, and their scores agree", async () => {
  using rig = await Rig.create();
  for (const shape of SHAPES) {
    await check(rig, shape, [40, 1, 1, 7, 16, 13, 1, 60], 31);
    await check(rig, shape, [257, ...new Array<number>(20).fill(1)], 32);
    await check(rig, shape, [600], 33);
  }
});
