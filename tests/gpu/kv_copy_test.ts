import {
  KV_COPY_PARAMS,
  kvCopySpec,
  type KvCopyVariant,
  kvCopyWorkgroups,
  NO_PLACE,
  packedRowBytes,
} from "../../src/gpu/ops/kv_copy.ts";
import { Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

type Shape = Omit<KvCopyVariant, "direction"> & { readonly kvHeads: number };

const SHAPES: readonly Shape[] = [
  { headDim: 64, kvType: "f16", pageSize: 32, lanes: 8, spread: "rows", kvHeads: 3 },
  { headDim: 64, kvType: "f32", pageSize: 32, lanes: 32, spread: "words", kvHeads: 1 },
  { headDim: 16, kvType: "f16", pageSize: 16, lanes: 64, spread: "words", kvHeads: 2 },
  { headDim: 32, kvType: "f32", pageSize: 32, lanes: 8, spread: "rows", kvHeads: 2 },
  { headDim: 80, kvType: "f16", pageSize: 32, lanes: 32, spread: "words", kvHeads: 2 },
  { headDim: 128, kvType: "f16", pageSize: 32, lanes: 32, spread: "words", kvHeads: 2 },
];

const BLANK = 0xabababab;

/** Word of the slab where a row of a KV head begins. */
function wordOf(shape: Shape, row: number, kvHead: number): number {
  const { headDim, kvType, pageSize, kvHeads } = shape;
  const page = Math.floor(row / pageSize) * kvHeads + kvHead;
  return (page * pageSize + row % pageSize) * headDim / (kvType === "f16" ? 2 : 1);
}

async function check(
  rig: Rig,
  shape: Shape,
  c: { pages: number; count: number; firstRow: number; seed: number; skip?: boolean },
): Promise<void> {
  const random = new Random(c.seed);
  const { kvHeads, pageSize } = shape;
  const rowWords = packedRowBytes(shape.headDim, shape.kvType) / 8;
  const slabWords = c.pages * kvHeads * pageSize * rowWords;
  const total = c.firstRow + c.count + 2;
  // Bits of any kind: NaN and denormal numbers too must arrive as they are.
  const bits = (count: number) =>
    Uint32Array.from({ length: count }, () => random.int(0, 0xffffffff));
  const packed = bits(total * 2 * rowWords);
  const cells = random.permutation(c.pages * pageSize * kvHeads);
  const places = new Uint32Array(total * 2);
  for (let i = 0; i < total; i++) {
    const cell = cells[i]!;
    places.set([Math.floor(cell / kvHeads), cell % kvHeads], 2 * i);
    if (c.skip && i % 5 === 2) places[2 * i] = NO_PLACE;
  }
  const params = rig.uniform(KV_COPY_PARAMS.pack({ num_kv_heads: kvHeads }));
  const blank = () => new Uint32Array(slabWords).fill(BLANK);
  const slabs = [rig.storage(blank()), rig.storage(blank())];
  const table = rig.storage(places);
  const back = rig.storage(new Uint32Array(packed.length).fill(BLANK));
  const step = { num_rows: c.count, first_row: c.firstRow };
  await rig.run((["scatter", "gather"] as const).map((direction) => {
    const v: KvCopyVariant = { ...shape, direction };
    const buffer = direction === "scatter" ? rig.storage(packed) : back;
    return {
      spec: kvCopySpec(v),
      parts: [buffer, table, ...slabs, params],
      step,
      workgroups: kvCopyWorkgroups(v, c.count),
    };
  }));

  const want = [blank(), blank()];
  const wantBack = new Uint32Array(packed.length).fill(BLANK);
  for (let i = c.firstRow; i < c.firstRow + c.count; i++) {
    if (places[2 * i] === NO_PLACE) continue;
    const at = wordOf(shape, places[2 * i]!, places[2 * i + 1]!);
    const row = packed.subarray(i * 2 * rowWords, (i + 1) * 2 * rowWords);
    want[0]!.set(row.subarray(0, rowWords), at);
    want[1]!.set(row.subarray(rowWords), at);
    wantBack.set(row, i * 2 * rowWords);
  }
  const where = `${kvCopySpec({ ...shape, direction: "scatter" }).variant}, ${c.count} rows`;
  const same = (got: Uint32Array, expected: Uint32Array, what: string) => {
    const wrong = got.findIndex((word, i) => word !== expected[i]);
    assert.equal(wrong, -1, `${where}: ${what}, word ${wrong}`);
  };
  same(await rig.words(slabs[0]!, slabWords), want[0]!, "keys");
  same(await rig.words(slabs[1]!, slabWords), want[1]!, "values");
  same(await rig.words(back, wantBack.length), wantBack, "gathered");
}

for (const shape of SHAPES) {
  const name = `${shape.kvHeads} kv heads of ${shape.headDim}, ${shape.kvType}, ${shape.spread}`;
  Deno.test(`rows are scattered and gathered bit by bit: ${name}`, async () => {
    using rig = await Rig.create();
    for (const count of [1, 7, 33]) {
      await check(rig, shape, { pages: 5, count, firstRow: 0, seed: count });
      await check(rig, shape, { pages: 3, count, firstRow: 3, seed: count + 50, skip: true });
    }
  });
}

Deno.test("tens of thousands of rows are scattered at once", async () => {
  using rig = await Rig.create();
  await check(rig, SHAPES[2]!, { pages: 2100, count: 66_000, firstRow: 1, seed: 1 });
  await check(rig, SHAPES[3]!, { pages: 400, count: 25_001, firstRow: 0, seed: 2 });
});

Deno.test("kvCopySpec() refuses rows that are no whole vectors", () => {
  const v: KvCopyVariant = { ...SHAPES[0]!, direction: "scatter", headDim: 4 };
  assert.throws(() => kvCopySpec(v), /keys of 4 values in f16/);
});
