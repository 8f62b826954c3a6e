/** A cache of keys for the tests of scoring. */
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import { packCache } from "./_cache.ts";
import type { ListCase, ListSetup } from "./_lists.ts";
import type { Random } from "./_rig.ts";

/** Keys of every row up to the furthest of each slot; the rest holds no numbers. */
export function fillKeys(
  v: { readonly headDim: number; readonly kvType: "f16" | "f32" },
  c: ListCase,
  setup: ListSetup,
  random: Random,
) {
  const { kvHeads, rows } = c;
  const values = new Float32Array(setup.slots * setup.maxPages * kvHeads * 32 * v.headDim);
  values.fill(NaN);
  const cell = (slot: number, h: number, position: number) =>
    ((setup.pageOf(slot, position) * kvHeads + h) * 32 + position % 32) * v.headDim;
  for (const slot of new Set(rows.map((row) => row.slot))) {
    const mine = rows.filter((row) => row.slot === slot).map(({ position }) => position);
    for (let position = 0; position <= Math.max(...mine); position++) {
      for (let h = 0; h < kvHeads; h++) {
        const key = random.floats(v.headDim);
        if (v.kvType === "f16") key.forEach((x, i) => key[i] = halfToFloat(floatToHalf(x)));
        values.set(key, cell(slot, h, position));
      }
    }
  }
  return {
    words: packCache(v.kvType, values),
    row(slot: number, h: number, position: number): number[] {
      const at = cell(slot, h, position);
      return Array.from(values.subarray(at, at + v.headDim));
    },
  };
}

/** Queries of a step's rows as they stand in qkv; k and v hold no numbers. */
export function fillQueries(headDim: number, c: ListCase, random: Random) {
  const { kvHeads, group, rows } = c;
  const heads = kvHeads * group;
  const stride = (heads + 2 * kvHeads) * headDim;
  const qkv = new Float32Array((rows.length + 1) * stride).fill(NaN);
  rows.forEach((_, row) => qkv.set(random.floats(heads * headDim), row * stride));
  return {
    qkv,
    /** Queries of a KV head: (group, headDim). */
    group(row: number, h: number): number[][] {
      return Array.from({ length: group }, (_, g) => {
        const at = row * stride + (h * group + g) * headDim;
        return Array.from(qkv.subarray(at, at + headDim));
      });
    },
  };
}
