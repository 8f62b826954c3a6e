import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  partialStride,
} from "../../src/gpu/ops/attention.ts";
import { attendedKeys, selectionStride, SLIDING } from "../../src/gpu/ops/selection.ts";
import { attentionReference, logSum, partialReference } from "../reference/attention.ts";
import { BOUNDS } from "./_attention.ts";
import { packCache } from "./_cache.ts";
import { assertClose, type Call, Random, Rig, untouched } from "./_rig.ts";
import { pick, type SelectedCase, type SelectedRow, SelectedScene } from "./_selected.ts";
import { assert } from "std-testing";

type Shape = Omit<AttentionVariant, "queryRows" | "keys"> & { readonly kvHeads: number };

const PAGES = { pageSize: 32 };

const SHAPES: readonly Shape[] = [
  { form: "lanes", kvHeads: 3, group: 3, headDim: 64, kvType: "f16", lanes: 8, ...PAGES },
  { form: "lanes", kvHeads: 1, group: 1, headDim: 64, kvType: "f32", lanes: 8, ...PAGES },
  { form: "lanes", kvHeads: 2, group: 2, headDim: 32, kvType: "f32", lanes: 4, pageSize: 16 },
  { form: "lanes", kvHeads: 2, group: 8, headDim: 16, kvType: "f16", lanes: 8, ...PAGES },
  { form: "tiled", kvHeads: 3, group: 3, headDim: 64, kvType: "f16", lanes: 16, ...PAGES },
  { form: "tiled", kvHeads: 2, group: 2, headDim: 32, kvType: "f16", lanes: 32, ...PAGES },
  { form: "tiled", kvHeads: 2, group: 8, headDim: 16, kvType: "f32", lanes: 64, ...PAGES },
  { form: "tiled", kvHeads: 2, group: 4, headDim: 128, kvType: "f16", lanes: 8, ...PAGES },
];

/** What a step does. */
interface Run {
  readonly split: number;
  /** Dispatch the kernel for rows that are not selected as well. */
  readonly dense?: boolean;
  readonly partialOnly?: boolean;
}

async function check(rig: Rig, shape: Shape, c: SelectedCase, run: Run): Promise<void> {
  const { rows, firstRow = 0 } = c;
  const { headDim } = shape;
  const scene = new SelectedScene(shape, c);
  const { heads } = scene;
  const partialOnly = run.partialOnly ?? false;
  const splitsOf = (row: number, head: number) =>
    Math.ceil(scene.attended(row, head).keys.length / run.split);
  const done = (row: SelectedRow) => row.mode === "rows" || run.dense;
  const numSplits = Math.max(
    1,
    ...rows.flatMap((row, r) =>
      done(row) ? Array.from({ length: heads }, (_, head) => splitsOf(r, head)) : []
    ),
  );
  const maxSplits = numSplits + 1;
  const stride = partialStride(headDim);
  const partial = rig.storage(untouched(rows.length * heads * maxSplits * stride));
  const out = rig.storage(untouched((rows.length + 1) * heads * headDim));
  const lse = rig.storage(untouched(rows.length * (heads + 3)));
  const rowTable = rig.storage(scene.rowTable);
  const selection = rig.storage(scene.selection);
  const params = rig.uniform(attentionParams({
    numHeads: heads,
    numKvHeads: c.kvHeads,
    maxPages: scene.map.shape.maxPages,
    maxSplits,
    splitKeys: run.split,
    partialOnly,
    selectionStride: selectionStride(c.kvHeads, scene.listCapacity),
    listCapacity: scene.listCapacity,
    lseStride: heads + 3,
    lseOffset: 2,
  }));
  const buffers = [
    rig.storage(scene.qkv),
    rig.storage(packCache(shape.kvType, scene.keys)),
    rig.storage(packCache(shape.kvType, scene.values)),
    rig.storage(scene.map.table),
    rowTable,
    out,
    partial,
    selection,
    params,
  ];
  const step = { num_rows: rows.length, first_row: firstRow, num_splits: numSplits };
  const kinds = run.dense ? ["rows", "dense"] as const : ["rows"] as const;
  const calls: Call[] = kinds.map((keys) => {
    const v: AttentionVariant = { ...shape, queryRows: 1, keys };
    const workgroups = attentionWorkgroups(v, c.kvHeads, rows.length, numSplits);
    return { spec: attentionSpec(v), parts: buffers, step, workgroups };
  });
  // Rows that no kernel has dealt with have nothing to merge.
  const merged = rows.every(done);
  if (merged) {
    calls.push({
      spec: attentionMergeSpec({ headDim, lanes: 8, selection: true, lse: partialOnly }),
      parts: [partial, rowTable, selection, out, ...(partialOnly ? [lse] : []), params],
      step,
      workgroups: rows.length * heads,
    });
  }
  await rig.run(calls);

  const where = `${attentionSpec({ ...shape, queryRows: 1, keys: "rows" }).variant}, ` +
    `${c.kvHeads} kv heads, split ${run.split}, seed ${c.seed}`;
  const wantOut: (number | null)[] = [];
  const wantPartial: (number | null)[] = [];
  const wantLse: (number | null)[] = [];
  const nothing = (count: number) => Array.from({ length: count }, () => null);
  rows.forEach((row, r) => {
    wantLse.push(null, null);
    for (let head = 0; head < heads; head++) {
      const query = scene.query(r, head);
      const { keys, values } = scene.attended(r, head);
      const splits = done(row) ? splitsOf(r, head) : 0;
      const direct = splits === 1 && !partialOnly;
      wantOut.push(
        ...splits > 0 && (direct || merged)
          ? attentionReference(query, keys, values)
          : nothing(headDim),
      );
      wantLse.push(splits > 0 ? logSum(partialReference(query, keys, values)) : null);
      for (let s = 0; s < maxSplits; s++) {
        const part = (list: number[][]) => list.slice(s * run.split, (s + 1) * run.split);
        if (s >= splits || direct) wantPartial.push(...nothing(stride));
        else {
          const result = partialReference(query, part(keys), part(values));
          wantPartial.push(...result.sums, result.maximum, result.normaliser);
          // Of the two that remain, one form leaves zeros.
          wantPartial.push(NaN, NaN);
        }
      }
    }
    wantLse.push(null);
  });
  wantOut.push(...nothing(heads * headDim));
  if (wantOut.some((value) => value !== null)) {
    assertClose(await rig.floats(out, wantOut.length), wantOut, BOUNDS, where);
  }
  const got = await rig.floats(partial, wantPartial.length);
  // Unused numbers are compared with themselves.
  const known = wantPartial.map((value, i) => Number.isNaN(value) ? got[i]! : value);
  if (known.some((value) => value !== null)) assertClose(got, known, BOUNDS, `${where}, partial`);
  if (partialOnly && merged) {
    assertClose(await rig.floats(lse, wantLse.length), wantLse, BOUNDS, `${where}, lse`);
  }
}

const rowsOf = (
  slot: number,
  position: number,
  selection: Partial<SelectedRow> & Pick<SelectedRow, "picks">,
): SelectedRow => ({ slot, position, mode: "rows", prefix: 0, windowRows: 0, ...selection });

/** Sequences of every kind; lists differ in length from head to head. */
function mixture(kvHeads: number, tile: number, seed: number): SelectedRow[] {
  const random = new Random(seed);
  const perHead = (list: (h: number) => number[]) =>
    Array.from({ length: kvHeads }, (_, h) => list(h));
  const empty = perHead(() => []);
  const far = 3 * tile + 9;
  return [
    // Sinks, ragged lists, a sliding window.
    rowsOf(3, far, {
      prefix: 5,
      windowRows: 11,
      picks: perHead((h) => pick(random, 5, far - 10, h === 1 ? tile + 3 : 6 + h)),
    }),
    { ...rowsOf(0, 2 * tile + 1, { picks: empty }), mode: "dense" },
    // A window that has stood still since the last selection.
    rowsOf(5, tile + 7, {
      windowStart: tile - 2,
      windowRows: 3,
      picks: perHead((h) => pick(random, 2, tile - 3, 3 * h)),
    }),
    // A window alone; listed rows alone, of which a head has none.
    rowsOf(1, 2 * tile, { windowRows: 7, picks: empty }),
    rowsOf(6, far, { picks: perHead((h) => h === 1 ? [] : pick(random, 0, far, 2 * tile - h)) }),
    // Shorter than the prefix, and shorter than the window.
    rowsOf(2, 3, { prefix: 9, windowRows: 8, picks: empty }),
    rowsOf(4, 6, { prefix: 2, windowRows: 30, picks: empty }),
    // All of it, as a budget that covers the sequence gives it.
    rowsOf(7, tile + 1, {
      prefix: 4,
      windowStart: 30,
      picks: perHead(() => pick(random, 4, 30, 26)),
    }),
  ];
}

for (const shape of SHAPES) {
  const { form, kvHeads, headDim, group, kvType } = shape;
  const name = `${form}, ${kvHeads} kv heads of ${headDim}, ${group} queries each, ${kvType}`;
  Deno.test(`attention over selected rows agrees: ${name}`, async () => {
    using rig = await Rig.create();
    const tile = Math.max(shape.lanes * 4, shape.pageSize);
    const rows = mixture(kvHeads, tile, 1);
    await check(rig, shape, { kvHeads, rows, seed: 2, firstRow: 2 }, { split: tile });
    const all = { split: tile, dense: true };
    await check(rig, shape, { kvHeads, rows: rows.slice(0, 4), seed: 3, scale: 3 }, all);
    await check(rig, shape, { kvHeads, rows: rows.toReversed(), seed: 4 }, {
      split: 2 * tile,
      dense: true,
      partialOnly: true,
    });
    // One row, with more heads than the shape's.
    await check(rig, shape, { kvHeads: 5, rows: mixture(5, tile, 5).slice(0, 1), seed: 6 }, all);
  });
}

Deno.test("attention over selected rows takes several tiles in one split", async () => {
  using rig = await Rig.create();
  for (const shape of [SHAPES[0]!, SHAPES[5]!]) {
    const random = new Random(8);
    const picks = Array.from({ length: shape.kvHeads }, (_, h) => pick(random, 64, 1200, 700 - h));
    const row = rowsOf(1, 1300, { prefix: 64, windowRows: 90, picks });
    const c: SelectedCase = { kvHeads: shape.kvHeads, rows: [row], seed: 9, scale: 2 };
    await check(rig, shape, c, { split: 512, dense: true });
    await check(rig, shape, c, { split: 1024, dense: true, partialOnly: true });
  }
});

Deno.test("attendedKeys() counts what the kernels attend to", () => {
  const lists = [[4, 5], []];
  const base = { mode: "rows", prefix: 3, windowStart: SLIDING, windowRows: 4, lists } as const;
  assert.deepEqual(attendedKeys(base, 20), [9, 7]);
  assert.deepEqual(attendedKeys(base, 4), [7, 5]);
  assert.deepEqual(attendedKeys(base, 1), [4, 2]);
  assert.deepEqual(attendedKeys(base, 0xffffffff), [2, 0]);
  assert.deepEqual(attendedKeys({ ...base, windowStart: 12 }, 20), [14, 12]);
  assert.deepEqual(attendedKeys({ ...base, windowStart: 30 }, 20), [5, 3]);
  assert.deepEqual(attendedKeys({ ...base, mode: "dense" }, 20), [21, 21]);
});

Deno.test("attentionSpec() refuses to share selected keys between rows", () => {
  const v: AttentionVariant = { ...SHAPES[0]!, queryRows: 2, keys: "rows" };
  assert.throws(() => attentionSpec(v), /2 rows cannot share/);
});
