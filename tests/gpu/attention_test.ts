import { attentionSpec, type AttentionVariant } from "../../src/gpu/ops/attention.ts";
import { type AttentionCase, checkAttention, chunk } from "./_attention.ts";
import { Rig } from "./_rig.ts";
import { assert } from "std-testing";

type Shape = Pick<
  AttentionVariant,
  "headDim" | "group" | "kvType" | "lanes" | "form" | "pageSize"
>;

/**
 * Each head size, group size and lane count, with either cache type, in both forms. Compiling is
 * what takes the time, so not every combination is here.
 */
const SHAPES: readonly Shape[] = [
  { form: "lanes", headDim: 64, group: 3, kvType: "f16", lanes: 8, pageSize: 32 },
  { form: "lanes", headDim: 64, group: 1, kvType: "f32", lanes: 8, pageSize: 32 },
  { form: "tiled", headDim: 64, group: 1, kvType: "f32", lanes: 8, pageSize: 4 },
  { form: "tiled", headDim: 32, group: 2, kvType: "f16", lanes: 32, pageSize: 32 },
  { form: "lanes", headDim: 32, group: 4, kvType: "f16", lanes: 4, pageSize: 64 },
  { form: "lanes", headDim: 80, group: 1, kvType: "f32", lanes: 8, pageSize: 16 },
  { form: "lanes", headDim: 96, group: 1, kvType: "f16", lanes: 32, pageSize: 32 },
  { form: "lanes", headDim: 128, group: 1, kvType: "f16", lanes: 8, pageSize: 32 },
  { form: "tiled", headDim: 64, group: 3, kvType: "f16", lanes: 64, pageSize: 32 },
  { form: "tiled", headDim: 16, group: 8, kvType: "f32", lanes: 64, pageSize: 64 },
  { form: "tiled", headDim: 80, group: 1, kvType: "f16", lanes: 8, pageSize: 32 },
  { form: "tiled", headDim: 96, group: 1, kvType: "f32", lanes: 32, pageSize: 32 },
  { form: "tiled", headDim: 128, group: 1, kvType: "f16", lanes: 64, pageSize: 32 },
];

/** How many of them a prompt's kernels are compiled for too: those take longer. */
const PROMPT_SHAPES = 4;

function nameOf({ form, headDim, group, kvType, lanes }: Shape): string {
  return `${form}, heads of ${headDim}, ${group} a kv head, ${kvType}, ${lanes} lanes`;
}

for (const shape of SHAPES) {
  Deno.test(`attention of decode rows agrees: ${nameOf(shape)}`, async () => {
    using rig = await Rig.create();
    const tile = Math.max(shape.lanes * 4, shape.pageSize);
    const v: AttentionVariant = { ...shape, queryRows: 1 };
    const check = (c: AttentionCase) => checkAttention(rig, v, { split: tile, ...c });
    for (const position of [0, 1, 3, 4, tile - 1, tile, tile + 5]) {
      await check({ kvHeads: 2, rows: [{ slot: 1, position }], seed: position });
    }
    // Sequences of mixed length: alone in their split, just over its border, several splits.
    const rows = [2 * tile + 7, 0, tile - 1, 3 * tile - 1, tile, 17]
      .map((position, index) => ({ slot: (index * 5) % 6, position }));
    await check({ kvHeads: 1, rows, seed: 50, firstRow: 3, mergeLanes: 32 });
    await check({ kvHeads: 3, rows: rows.slice(0, 2), seed: 51, rising: true, scale: 3 });
    // Splits of several tiles.
    const long = [{ slot: 0, position: 5 * tile + 2 }, { slot: 2, position: 3 * tile }];
    await check({ kvHeads: 1, rows: long, split: 2 * tile, seed: 52, rising: true });
  });
}

for (const shape of SHAPES.slice(0, PROMPT_SHAPES)) {
  Deno.test(`attention of a prompt's rows agrees: ${nameOf(shape)}`, async () => {
    using rig = await Rig.create();
    const v: AttentionVariant = { ...shape, queryRows: 2 };
    const tile = shape.lanes * 4;
    for (const count of [1, 2, 7, 17]) {
      await checkAttention(rig, v, { kvHeads: 2, rows: chunk(1, 0, count), seed: count });
    }
    // A chunk after others; its rows end in different tiles.
    await checkAttention(rig, v, {
      kvHeads: 1,
      rows: chunk(2, tile - 3, 9),
      seed: 60,
      firstRow: 2,
    });
    const rising = { kvHeads: 1, rows: chunk(0, 2 * tile + 1, 3), rising: true, scale: 3 };
    await checkAttention(rig, v, { ...rising, seed: 61 });
  });
}

/** Shapes for the form in which a lane keeps the queries of a row. */
const QUERY_SHAPES: readonly Omit<Shape, "lanes" | "form">[] = [
  { headDim: 64, group: 3, kvType: "f16", pageSize: 32 },
  { headDim: 24, group: 1, kvType: "f32", pageSize: 16 },
  { headDim: 16, group: 2, kvType: "f16", pageSize: 8 },
];

for (const shape of QUERY_SHAPES) {
  Deno.test(`attention with a lane a row agrees: heads of ${shape.headDim}, ${shape.group} a kv head`, async () => {
    using rig = await Rig.create();
    const lanes = rig.subgroup;
    if (lanes === 0 || shape.pageSize % lanes !== 0) return;
    const v: AttentionVariant = { ...shape, form: "queries", lanes, queryRows: lanes };
    for (const count of [1, 7, 8, 9, 17, 33]) {
      await checkAttention(rig, v, { kvHeads: 2, rows: chunk(1, 0, count), seed: count });
    }
    // A chunk after others; its rows end in different turns and pages.
    for (const start of [lanes - 3, 29, 70]) {
      const rows = chunk(2, start, 9);
      await checkAttention(rig, v, { kvHeads: 1, rows, seed: 60 + start, firstRow: 2 });
    }
    const rising = { kvHeads: 1, rows: chunk(0, 65, 3), rising: true, scale: 3 };
    await checkAttention(rig, v, { ...rising, seed: 61 });
  });
}

Deno.test("attention with a lane a row takes as many rows as lanes", () => {
  const v: AttentionVariant = {
    form: "queries",
    headDim: 16,
    group: 1,
    kvType: "f32",
    pageSize: 32,
    lanes: 8,
    queryRows: 8,
  };
  attentionSpec(v);
  assert.throws(() => attentionSpec({ ...v, queryRows: 2 }), RangeError);
  assert.throws(() => attentionSpec({ ...v, pageSize: 12 }), RangeError);
});

const SMALL: readonly Shape[] = [
  { form: "lanes", headDim: 32, group: 1, kvType: "f16", lanes: 8, pageSize: 16 },
  { form: "tiled", headDim: 32, group: 1, kvType: "f16", lanes: 32, pageSize: 16 },
];

for (const shape of SMALL) {
  Deno.test(`attention agrees over odd lengths of chunks and many tiles: ${nameOf(shape)}`, async () => {
    using rig = await Rig.create();
    const v: AttentionVariant = { ...shape, queryRows: 4 };
    for (let count = 1; count <= 17; count++) {
      const rows = chunk(0, count * 3 % 11, count);
      await checkAttention(rig, v, { kvHeads: 1, rows, seed: 70 + count });
    }
    await checkAttention(rig, v, { kvHeads: 3, rows: chunk(1, 0, 129), seed: 90 });
    // Past the tile of 256 keys that the form for CPUs takes, also with a rest.
    const far = { kvHeads: 1, rows: chunk(1, 600, 5), seed: 91, rising: true, scale: 2 };
    await checkAttention(rig, v, far);
  });
}

Deno.test("attentionSpec() refuses sizes that the kernel cannot take", () => {
  const v: AttentionVariant = { ...SHAPES[0]!, queryRows: 1 };
  assert.throws(() => attentionSpec({ ...v, headDim: 20 }), /head size 20/);
  assert.throws(() => attentionSpec({ ...v, lanes: 64 }), /64 lanes do not divide a page of 32/);
});
