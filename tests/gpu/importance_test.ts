import {
  IMPORTANCE_KEYS,
  type ImportanceKeys,
  importanceProjectSpec,
  type ImportanceProjectVariant,
  importanceProjectWorkgroups,
} from "../../src/gpu/ops/importance_project.ts";
import { ROW_KEEPS } from "../../src/gpu/ops/list_params.ts";
import {
  scoreProjectedSpec,
  type ScoreProjectedVariant,
  scoreProjectedWorkgroups,
} from "../../src/gpu/ops/score_projected.ts";
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import { byteKeyReference, projectReference, scoreReference } from "../reference/score.ts";
import { BLANK, blankWords, type ListCase, listSetup, readLists, recipe } from "./_lists.ts";
import { fillKeys } from "./_list_keys.ts";
import { assertClose, F32_BOUNDS, Random, Rig, untouched } from "./_rig.ts";
import { assert } from "std-testing";

/** Values of an importance key. */
const DIMS = 16;

/** Projects, and compares keys, queries and what is left alone. */
async function checkProjection(rig: Rig, v: ImportanceProjectVariant, c: ListCase) {
  const random = new Random(c.seed);
  const setup = listSetup(rig, c, random);
  const { kvHeads, rows } = c;
  const heads = kvHeads * c.group;
  const quads = setup.params.importance_quads;
  const keys = fillKeys(v, c, setup, random);
  const impTable = Uint32Array.from(random.permutation(setup.slots * setup.maxPages));
  const matrix = random.floats(kvHeads * v.headDim * DIMS, 0.3);
  const qkv = new Float32Array(rows.length * (heads + 2 * kvHeads) * v.headDim).fill(NaN);
  rows.forEach((_, row) =>
    qkv.set(random.floats(heads * v.headDim), row * (heads + 2 * kvHeads) * v.headDim)
  );
  const storeWords = blankWords(setup.slots * setup.maxPages * kvHeads * quads * 4);
  const store = rig.storage(storeWords);
  const queries = rig.storage(untouched((rows.length + 1) * heads * DIMS));
  await rig.run([{
    spec: importanceProjectSpec(v),
    parts: [
      rig.storage(keys.words),
      setup.buffers.pages,
      setup.buffers.rows,
      rig.storage(matrix),
      rig.storage(impTable),
      store,
      ...(v.queries ? [rig.storage(qkv), queries] : []),
      setup.buffers.params,
    ],
    step: setup.step,
    workgroups: importanceProjectWorkgroups(v, kvHeads, rows.length),
  }]);

  const where = `${importanceProjectSpec(v).variant}, seed ${c.seed}`;
  const matrixOf = (h: number) =>
    Array.from(matrix.subarray(h * v.headDim * DIMS, (h + 1) * v.headDim * DIMS));
  const got = await rig.words(store, storeWords.length);
  const halves = new Uint16Array(got.buffer);
  const allBytes = new Uint8Array(got.buffer);
  const scales = new Float32Array(got.buffer);
  const wantKeys: number[] = [];
  const gotKeys: number[] = [];
  const kept = typeof c.keeps === "number" && c.keeps & ROW_KEEPS.key ? rows : [];
  kept.forEach(({ slot, position }) => {
    const page = impTable[slot * setup.maxPages + Math.floor(position / 32)]!;
    for (let h = 0; h < kvHeads; h++) {
      const first = (page * kvHeads + h) * quads * 4;
      const want = projectReference(keys.row(slot, h, position), matrixOf(h), DIMS);
      wantKeys.push(...want);
      if (v.keys === "f16") {
        const at = (first + position % 32 * 8) * 2;
        gotKeys.push(...Array.from(halves.subarray(at, at + DIMS), halfToFloat));
        got.fill(BLANK, at / 2, at / 2 + 8);
        continue;
      }
      const at = first + position % 32 * 4;
      const scaleAt = first + 128 + position % 32;
      const scale = scales[scaleAt]!;
      const { bytes } = byteKeyReference(want);
      const mine = Array.from(allBytes.subarray(at * 4, at * 4 + DIMS));
      assert.equal(Math.max(...mine.map((byte) => Math.abs(byte - 128))), 127, where);
      mine.forEach((byte, i) => assert.ok(Math.abs(byte - bytes[i]!) <= 1, `${where}: byte ${i}`));
      gotKeys.push(...mine.map((byte) => (byte - 128) * scale));
      got.fill(BLANK, at, at + 4);
      got.fill(BLANK, scaleAt, scaleAt + 1);
    }
  });
  // Half precision has eleven bits, a byte seven and a sign.
  const bounds = v.keys === "f16" ? { nmse: 1e-6, max: 2e-3 } : { nmse: 1e-4, max: 5e-2 };
  if (kept.length > 0) assertClose(gotKeys, wantKeys, bounds, `${where}: keys`);
  assert.deepEqual(got, storeWords, `${where}: other rows of the store`);
  if (!v.queries) return;
  const want: (number | null)[] = [];
  rows.forEach((_, row) => {
    for (let head = 0; head < heads; head++) {
      const at = (row * (heads + 2 * kvHeads) + head) * v.headDim;
      const query = Array.from(qkv.subarray(at, at + v.headDim));
      want.push(...projectReference(query, matrixOf(Math.floor(head / c.group)), DIMS));
    }
  });
  for (let i = 0; i < heads * DIMS; i++) want.push(null);
  assertClose(await rig.floats(queries, want.length), want, F32_BOUNDS, `${where}: queries`);
}

type Projection = ImportanceProjectVariant & { readonly kvHeads: number };

const PROJECTIONS: readonly Projection[] = ([
  { headDim: 64, group: 3, kvType: "f16", queries: true, lanes: 8, kvHeads: 3 },
  { headDim: 64, group: 3, kvType: "f16", queries: false, lanes: 8, kvHeads: 3 },
  { headDim: 128, group: 1, kvType: "f32", queries: true, lanes: 32, kvHeads: 1 },
  { headDim: 16, group: 8, kvType: "f32", queries: true, lanes: 64, kvHeads: 4 },
  { headDim: 80, group: 2, kvType: "f16", queries: true, lanes: 4, kvHeads: 2 },
] as const).flatMap((v) => IMPORTANCE_KEYS.map((keys) => ({ ...v, keys })));

Deno.test("importance keys are kept of the rows that say so, and of no other", async () => {
  using rig = await Rig.create();
  for (const v of PROJECTIONS.slice(0, 2)) {
    const rows = [{ slot: 1, position: 40 }, { slot: 0, position: 3 }];
    const c = { kvHeads: v.kvHeads, group: v.group, recipes: {}, rows, seed: 3 };
    await checkProjection(rig, v, { ...c, keeps: ROW_KEEPS.bounds | ROW_KEEPS.mass });
  }
});

Deno.test("importance keys and queries agree with the plain product", async () => {
  using rig = await Rig.create();
  for (const v of PROJECTIONS) {
    const c = { kvHeads: v.kvHeads, group: v.group, recipes: {}, keeps: ROW_KEEPS.key | 4 };
    const decode = [[0, 0], [3, 95], [1, 31], [2, 32], [6, 77], [5, 3], [4, 64], [7, 1]]
      .map(([slot, position]) => ({ slot: slot!, position: position! }));
    await checkProjection(rig, v, { ...c, rows: decode, seed: 1, firstRow: 3 });
    const chunk = Array.from({ length: 75 }, (_, i) => ({ slot: 1, position: 21 + i }));
    await checkProjection(rig, v, { ...c, rows: chunk, seed: 2 });
  }
});

/** Importance keys in memory. */
class KeyStore {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly #keys: ImportanceKeys;

  constructor(keys: ImportanceKeys, words: number) {
    this.#keys = keys;
    // No numbers, in either form.
    this.words = new Uint32Array(words).fill(0x7e007e00);
    if (keys === "int8") this.words.fill(0x7fc00000);
  }

  write(page: number, row: number, key: readonly number[]): void {
    if (this.#keys === "f16") {
      const halves = new Uint16Array(this.words.buffer);
      return halves.set(key.map(floatToHalf), (page + row * 8) * 2);
    }
    const { scale, bytes } = byteKeyReference(key);
    new Uint8Array(this.words.buffer).set(bytes, (page + row * 4) * 4);
    new Float32Array(this.words.buffer)[page + 128 + row] = scale;
  }

  read(page: number, row: number): number[] {
    if (this.#keys === "f16") {
      const halves = new Uint16Array(this.words.buffer, (page + row * 8) * 4, DIMS);
      return Array.from(halves, halfToFloat);
    }
    const scale = new Float32Array(this.words.buffer)[page + 128 + row]!;
    const bytes = new Uint8Array(this.words.buffer, (page + row * 4) * 4, DIMS);
    return Array.from(bytes, (byte) => (byte - 128) * scale);
  }
}

/** Scores, and compares. */
async function checkScores(rig: Rig, v: ScoreProjectedVariant, c: ListCase) {
  const random = new Random(c.seed);
  const setup = listSetup(rig, c, random);
  const { kvHeads, group, rows } = c;
  const heads = kvHeads * group;
  const quads = setup.params.importance_quads;
  const queries = random.floats(rows.length * heads * DIMS);
  // Rows that no list has as a candidate hold no numbers.
  const store = new KeyStore(v.keys, setup.slots * setup.maxPages * kvHeads * quads * 4);
  const pageAt = (slot: number, h: number, position: number) =>
    (setup.pageOf(slot, position) * kvHeads + h) * quads * 4;
  rows.forEach(({ slot }, row) => {
    const { from, to } = setup.candidates[row]!;
    for (let p = from; p < to; p++) {
      for (let h = 0; h < kvHeads; h++) {
        store.write(pageAt(slot, h, p), p % 32, Array.from(random.floats(DIMS)));
      }
    }
  });
  const scores = rig.storage(blankWords(rows.length * kvHeads * setup.params.score_stride));
  const end = Math.max(...setup.candidates.map(({ to }) => to));
  await rig.run([{
    spec: scoreProjectedSpec(v),
    parts: [
      rig.storage(queries),
      rig.storage(store.words),
      setup.buffers.pages,
      setup.buffers.rows,
      setup.buffers.recipes,
      scores,
      setup.buffers.params,
    ],
    step: setup.step,
    workgroups: scoreProjectedWorkgroups(v, kvHeads, rows.length, end),
  }]);
  const words = await rig.words(scores, rows.length * kvHeads * setup.params.score_stride);
  const lists = readLists(setup, c, new Uint32Array(words));
  const want = rows.flatMap(({ slot }, row) =>
    Array.from({ length: kvHeads }, (_, h) => {
      const { from, to } = setup.candidates[row]!;
      const mine = Array.from({ length: group }, (_, g) => {
        const at = (row * heads + h * group + g) * DIMS;
        return Array.from(queries.subarray(at, at + DIMS));
      });
      return Array.from({ length: to - from }, (_, i) => {
        const p = from + i;
        return scoreReference(mine, store.read(pageAt(slot, h, p), p % 32), 0.25);
      });
    })
  );
  const where = `${scoreProjectedSpec(v).variant}, seed ${c.seed}`;
  assertClose(lists.flat(), want.flat(), F32_BOUNDS, where);
}

type Scorer = ScoreProjectedVariant & { readonly kvHeads: number };

const SCORERS: readonly Scorer[] = [
  { group: 3, lanes: 8, turns: 4, kvHeads: 3 },
  { group: 1, lanes: 64, turns: 1, kvHeads: 4 },
  { group: 8, lanes: 8, turns: 1, kvHeads: 1 },
  { group: 2, lanes: 32, turns: 2, kvHeads: 2 },
].flatMap((v) => IMPORTANCE_KEYS.map((keys) => ({ ...v, keys })));

Deno.test("scores of importance keys agree, with candidates that begin and end anywhere", async () => {
  using rig = await Rig.create();
  for (const v of SCORERS) {
    const { kvHeads, group } = v;
    const c = { kvHeads, group, mode: "projected" } as const;
    const rows = [[3, 700], [0, 31], [4, 100], [2, 277], [5, 64], [1, 0], [6, 1200], [7, 95]]
      .map(([slot, position]) => ({ slot: slot!, position: position! }));
    const recipes = {
      3: recipe("projected", kvHeads, 64, 192, 9),
      0: recipe("projected", kvHeads, 0, 1, 9),
      2: recipe("projected", kvHeads, 5, 33, 9),
      5: recipe("projected", kvHeads, 63, 0, 9),
      1: recipe("projected", kvHeads, 3, 2, 9),
      6: recipe("projected", kvHeads, 31, 7, 9),
      7: recipe("projected", kvHeads, 95, 0, 9),
      4: recipe("exact", kvHeads, 0, 1, 9),
    };
    await checkScores(rig, v, { ...c, rows, recipes, seed: 11, firstRow: 2 });
    await checkScores(rig, v, {
      ...c,
      rows: [{ slot: 2, position: 2111 }],
      recipes: { 2: recipe("projected", kvHeads, 65, 64, 9) },
      seed: 12,
      importanceQuads: 96,
    });
  }
});
