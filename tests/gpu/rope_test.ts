import { ROPE_PARAMS, ropeAngles, ropeSpec, type RopeVariant } from "../../src/gpu/ops/rope.ts";
import { headNormReference, rotateReference } from "../reference/rope.ts";
import { CacheMap, cacheWords, packCache, unpackCache } from "./_cache.ts";
import { assertClose, F32_BOUNDS, Random, Rig, UNTOUCHED, untouched } from "./_rig.ts";
import { assert } from "std-testing";

/** Half precision: 11 bits, rounded either way, and a step of its smallest numbers. */
const HALF_ERROR = 2 ** -10;
const HALF_STEP = 2 ** -24;

/** What an f16 cache is filled with before a kernel runs. */
const BLANK_HALF = 77;

interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly rotary: number;
  readonly rows: number;
  readonly firstRow?: number;
  readonly attentionFactor?: number;
}

const EPS = 1e-6;
const SLOTS = 3;
const MAX_PAGES = 5;

async function check(rig: Rig, v: RopeVariant, shape: Shape, seed: number): Promise<void> {
  const { heads, kvHeads, rotary, rows, firstRow = 0, attentionFactor = 1 } = shape;
  const { headDim, pageSize, kvType } = v;
  const random = new Random(seed);
  const where = `${ropeSpec(v).variant} ${JSON.stringify(shape)} seed ${seed}`;
  const map = new CacheMap(
    { kvType, kvHeads, headDim, pageSize, maxPages: MAX_PAGES, slots: SLOTS },
    random,
  );
  // Every row goes to another place, or a kernel that mixes rows up would go unseen.
  const places = random.permutation(SLOTS * MAX_PAGES * pageSize).slice(0, rows)
    .map((place) => ({ slot: place % SLOTS, position: Math.floor(place / SLOTS) }));
  const frequencies = Array.from({ length: rotary / 2 }, (_, i) => 10000 ** (-2 * i / rotary));
  const rope = {
    dimensions: rotary,
    pairing: v.pairing,
    inverseFrequencies: frequencies,
    attentionFactor,
  };
  const table = new Uint32Array((firstRow + rows) * 4).fill(0xffff);
  const angles = new Float32Array(Math.max(4, (firstRow + rows) * rotary)).fill(NaN);
  places.forEach(({ slot, position }, row) => {
    table.set([random.int(0, 9), slot, position, 0], (firstRow + row) * 4);
    ropeAngles(rope, position, angles, (firstRow + row) * rotary);
  });
  const rowHeads = heads + 2 * kvHeads;
  const values = random.floats(rows * rowHeads * headDim);
  const qkvLength = (rows + 1) * rowHeads * headDim;
  const start = untouched(qkvLength);
  start.set(values);
  const gains = random.floats(2 * headDim);
  const empty = packCache(
    kvType,
    new Float32Array(map.length).fill(kvType === "f16" ? BLANK_HALF : UNTOUCHED),
  );
  const [qkv, keys, cachedValues] = [rig.storage(start), rig.storage(empty), rig.storage(empty)];
  const params = ROPE_PARAMS.pack({
    num_heads: heads,
    num_kv_heads: kvHeads,
    rotary,
    max_pages: MAX_PAGES,
    eps: EPS,
  });
  await rig.run([{
    spec: ropeSpec(v),
    parts: [
      qkv,
      rig.storage(table),
      rig.storage(angles),
      rig.storage(map.table),
      keys,
      cachedValues,
      ...(v.qkNorm ? [rig.storage(gains)] : []),
      rig.uniform(params),
    ],
    step: { num_rows: rows, first_row: firstRow },
    workgroups: rows * rowHeads,
  }]);

  const gain = (offset: number) =>
    v.qkNorm ? Array.from(gains.subarray(offset, offset + headDim)) : null;
  const wantQ: (number | null)[] = [];
  const wantK = new Map<number, number>();
  const wantV = new Map<number, number>();
  places.forEach(({ slot, position }, row) => {
    for (let h = 0; h < rowHeads; h++) {
      const at = (row * rowHeads + h) * headDim;
      const head = Array.from(values.subarray(at, at + headDim));
      const turned = (offset: number) =>
        rotateReference(headNormReference(head, gain(offset), EPS), position, {
          ...rope,
          rotary,
          frequencies,
        });
      if (h < heads) wantQ.push(...turned(0));
      else {
        // What stands in place of k and v afterwards is nobody's business.
        for (let d = 0; d < headDim; d++) wantQ.push(NaN);
        const isKey = h < heads + kvHeads;
        const cell = map.cell(slot, (h - heads) % kvHeads, position);
        (isKey ? turned(headDim) : head).forEach((value, d) =>
          (isKey ? wantK : wantV).set(cell + d, value)
        );
      }
    }
  });
  for (let i = 0; i < rowHeads * headDim; i++) wantQ.push(null);
  const gotQ = await rig.floats(qkv, qkvLength);
  const kept = wantQ.map((_, i) => i).filter((i) => !Number.isNaN(wantQ[i]));
  assertClose(kept.map((i) => gotQ[i]!), kept.map((i) => wantQ[i]!), F32_BOUNDS, `${where}: q`);

  for (const [name, buffer, want] of [["k", keys, wantK], ["v", cachedValues, wantV]] as const) {
    const got = unpackCache(kvType, await rig.words(buffer, cacheWords(kvType, map.length)));
    const cells = Array.from(got, (_, i) => want.get(i) ?? null);
    if (kvType === "f32") assertClose(got, cells, F32_BOUNDS, `${where}: ${name}`);
    else {
      cells.forEach((value, i) => {
        const limit = value === null ? 0 : HALF_ERROR * Math.abs(value) + HALF_STEP;
        if (!(Math.abs(got[i]! - (value ?? BLANK_HALF)) <= limit)) {
          assert.fail(`${where}: ${name} ${i} is ${got[i]}, should be ${value ?? "untouched"}`);
        }
      });
    }
  }
}

const LANES = [8, 32, 64, "subgroup"] as const;

for (const choice of LANES) {
  for (const pairing of ["half", "adjacent"] as const) {
    Deno.test(`rope agrees with ${pairing} pairing over odd sizes, lanes: ${choice}`, async () => {
      using rig = await Rig.create();
      const subgroups = choice === "subgroup";
      const lanes = subgroups ? rig.subgroup : choice;
      if (lanes === 0) return;
      for (const kvType of ["f16", "f32"] as const) {
        for (const qkNorm of [false, true]) {
          const v = { headDim: 64, pairing, qkNorm, kvType, pageSize: 32, lanes, subgroups };
          for (const rows of [1, 2, 7, 9, 17]) {
            const shape = { heads: 6, kvHeads: 2, rotary: 64, rows, firstRow: rows % 3 };
            await check(rig, v, shape, rows);
          }
          // Part of a head passes through; a factor on cosine and sine; as many kv heads as heads.
          await check(rig, v, { heads: 3, kvHeads: 3, rotary: 48, rows: 5 }, 21);
          await check(
            rig,
            v,
            { heads: 4, kvHeads: 1, rotary: 16, rows: 4, attentionFactor: 1.19 },
            22,
          );
        }
      }
    });
  }
}

for (const headDim of [32, 48, 80, 96, 128]) {
  Deno.test(`rope agrees for heads of ${headDim}`, async () => {
    using rig = await Rig.create();
    for (const [index, pairing] of (["half", "adjacent"] as const).entries()) {
      const kvType = index === 0 ? "f16" : "f32";
      const v = {
        headDim,
        pairing,
        qkNorm: true,
        kvType,
        pageSize: 16,
        lanes: 32,
        subgroups: false,
      } as const;
      await check(rig, v, { heads: 4, kvHeads: 2, rotary: headDim, rows: 6 }, headDim);
      await check(rig, v, { heads: 2, kvHeads: 2, rotary: headDim / 4, rows: 3 }, headDim + 1);
    }
  });
}
