import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  lseInQkv,
  partialStride,
} from "../../src/gpu/ops/attention.ts";
import {
  listMassSpec,
  type ListMassVariant,
  listMassWorkgroups,
  MASS_PARAMS,
} from "../../src/gpu/ops/list_mass.ts";
import { ROW_KEEPS } from "../../src/gpu/ops/list_params.ts";
import { selectionStride } from "../../src/gpu/ops/selection.ts";
import { weightsReference } from "../reference/attention.ts";
import { attendedReference } from "../reference/selection.ts";
import { packCache } from "./_cache.ts";
import { assertClose, type Bounds, type Call, Random, Rig } from "./_rig.ts";
import { pick, type SelectedCase, SelectedScene } from "./_selected.ts";

/** A row whose attention does not count. */
const UNMARKED = 2;

/** Sums of exponentials of scores. */
const BOUNDS: Bounds = { nmse: 1e-10, max: 1e-4 };

type Shape = Omit<ListMassVariant, "massWords" | "keeps"> & { readonly kvHeads: number };

const SHAPES: readonly Shape[] = [
  { form: "lanes", kvHeads: 3, group: 3, headDim: 64, kvType: "f16", lanes: 8, pageSize: 32 },
  { form: "lanes", kvHeads: 1, group: 1, headDim: 64, kvType: "f32", lanes: 8, pageSize: 32 },
  { form: "tiled", kvHeads: 2, group: 2, headDim: 32, kvType: "f16", lanes: 32, pageSize: 32 },
  { form: "tiled", kvHeads: 2, group: 8, headDim: 16, kvType: "f32", lanes: 64, pageSize: 32 },
  { form: "tiled", kvHeads: 2, group: 4, headDim: 128, kvType: "f16", lanes: 8, pageSize: 32 },
];

/** The table with the bit of rows whose attention counts: all but the third. */
function marked(
  table: Uint32Array<ArrayBuffer>,
  first: number,
  count: number,
): Uint32Array<ArrayBuffer> {
  const words = table.slice();
  for (let row = 0; row < count; row++) {
    words[(first + row) * 4 + 3] = row === UNMARKED ? ~ROW_KEEPS.mass : ROW_KEEPS.mass;
  }
  return words;
}

/** Attention, its merge and the sums of a step. */
async function check(rig: Rig, shape: Shape, c: SelectedCase, split: number): Promise<void> {
  const { kvHeads, rows, firstRow = 0 } = c;
  const { headDim, group, pageSize } = shape;
  const massWords = 256;
  const scene = new SelectedScene(shape, c);
  const { heads, map } = scene;
  const { maxPages, slots } = map.shape;
  const random = new Random(c.seed + 1000);
  const picked = new Uint32Array(slots * kvHeads * scene.listCapacity).fill(0xffffff);
  for (const row of rows) {
    row.picks.forEach((list, h) => picked.set(list, (row.slot * kvHeads + h) * scene.listCapacity));
  }
  // Pages of the sums lie in an order of their own.
  const massPages = Uint32Array.from(random.permutation(slots * maxPages));
  const before = random.floats(massPages.length * kvHeads * massWords, 0.01);
  const mass = rig.storage(before);
  const qkv = rig.storage(scene.qkv);
  const keys = rig.storage(packCache(shape.kvType, scene.keys));
  const pages = rig.storage(map.table);
  const rowTable = rig.storage(scene.rowTable);
  const massRows = rig.storage(marked(scene.rowTable, firstRow, rows.length));
  const selection = rig.storage(scene.selection);
  const longest = Math.max(
    ...rows.flatMap((row) =>
      row.picks.map((_, h) => attendedReference(row, row.position, h).length)
    ),
  );
  const numSplits = Math.ceil(longest / split);
  const sizes = { numHeads: heads, numKvHeads: kvHeads, headDim };
  const stride = selectionStride(kvHeads, scene.listCapacity);
  const params = rig.uniform(attentionParams({
    ...sizes,
    ...lseInQkv(sizes),
    maxPages,
    maxSplits: numSplits,
    splitKeys: split,
    partialOnly: true,
    selectionStride: stride,
    listCapacity: scene.listCapacity,
  }));
  const massParams = rig.uniform(MASS_PARAMS.pack({
    num_heads: heads,
    num_kv_heads: kvHeads,
    max_pages: maxPages,
    split_keys: split,
    selection_stride: stride,
    list_capacity: scene.listCapacity,
    lse_offset: lseInQkv(sizes).lseOffset,
  }));
  const partial = rig.storage(
    new Float32Array(rows.length * heads * numSplits * partialStride(headDim)),
  );
  const out = rig.storage(new Float32Array(rows.length * heads * headDim));
  const step = { num_rows: rows.length, first_row: firstRow, num_splits: numSplits };
  const calls: Call[] = (["dense", "rows"] as const).map((kind) => {
    const v: AttentionVariant = { ...shape, queryRows: 1, keys: kind };
    const values = rig.storage(packCache(shape.kvType, scene.values));
    return {
      spec: attentionSpec(v),
      parts: [qkv, keys, values, pages, rowTable, out, partial, selection, params],
      step,
      workgroups: attentionWorkgroups(v, kvHeads, rows.length, numSplits),
    };
  });
  calls.push({
    spec: attentionMergeSpec({ headDim, lanes: 8, selection: true, lse: true }),
    parts: [partial, rowTable, selection, out, qkv, params],
    step,
    workgroups: rows.length * heads,
  }, {
    spec: listMassSpec({ ...shape, massWords, keeps: ROW_KEEPS.mass }),
    parts: [
      qkv,
      keys,
      pages,
      massRows,
      selection,
      rig.storage(picked),
      rig.storage(massPages),
      mass,
      massParams,
    ],
    step,
    workgroups: listMassWorkgroups(kvHeads, rows.length, numSplits),
  });
  await rig.run(calls);

  const want = Array.from(before);
  rows.forEach((row, r) => {
    if (r === UNMARKED) return;
    for (let head = 0; head < heads; head++) {
      const h = Math.floor(head / group);
      const weights = weightsReference(scene.query(r, head), scene.attended(r, head).keys);
      attendedReference(row, row.position, h).forEach((position, i) => {
        const page = massPages[row.slot * maxPages + Math.floor(position / pageSize)]!;
        want[(page * kvHeads + h) * massWords + position % pageSize]! += weights[i]!;
      });
    }
  });
  const where = `${
    listMassSpec({ ...shape, massWords, keeps: ROW_KEEPS.mass }).variant
  }, seed ${c.seed}`;
  const got = await rig.floats(mass, want.length);
  const changed = want.map((value, i) => value === before[i] ? null : value - before[i]!);
  const added = got.map((value, i) => value - before[i]!);
  assertClose(added, changed, BOUNDS, where, 0);
}

for (const shape of SHAPES) {
  const { form, kvHeads, headDim, group, kvType } = shape;
  const name = `${form}, ${kvHeads} kv heads of ${headDim}, ${group} queries each, ${kvType}`;
  Deno.test(`attention that rows get is added up: ${name}`, async () => {
    using rig = await Rig.create();
    const tile = Math.max(shape.lanes * 4, shape.pageSize);
    const random = new Random(3);
    const lists = (to: number, count: number) =>
      Array.from({ length: kvHeads }, (_, h) => pick(random, 4, to, count + 5 * h));
    const rows = [
      {
        slot: 2,
        position: 3 * tile,
        mode: "rows",
        prefix: 3,
        windowRows: 17,
        picks: lists(2 * tile, 9),
      },
      {
        slot: 0,
        position: tile + 4,
        mode: "dense",
        prefix: 0,
        windowRows: 0,
        picks: lists(5, 0).map(() => []),
      },
      {
        slot: 3,
        position: tile,
        mode: "rows",
        prefix: 0,
        windowRows: 5,
        picks: lists(5, 0).map(() => []),
      },
      {
        slot: 4,
        position: 2 * tile,
        mode: "rows",
        prefix: 0,
        windowStart: 40,
        windowRows: 0,
        picks: lists(39, 6),
      },
    ] as const;
    await check(rig, shape, { kvHeads, rows, seed: 4, firstRow: 2 }, tile);
    await check(rig, shape, { kvHeads, rows: rows.slice(0, 1), seed: 5, scale: 2 }, 4 * tile);
  });
}
