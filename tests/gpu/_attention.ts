/** Attention over a scrambled cache, compared with the plain reference. */
import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  NO_SPLIT,
  partialStride,
} from "../../src/gpu/ops/attention.ts";
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import { attentionReference } from "../reference/attention.ts";
import { CacheMap, packCache } from "./_cache.ts";
import { assertClose, type Bounds, type Call, Random, type Rig, untouched } from "./_rig.ts";

/** Scores are sums and go through an exponential, which makes their error relative. */
export const BOUNDS: Bounds = { nmse: 1e-10, max: 1e-4 };

/** What is asked of a kernel. */
export interface AttentionCase {
  readonly kvHeads: number;
  readonly rows: readonly { readonly slot: number; readonly position: number }[];
  readonly seed: number;
  /** Keys of a split; none: all keys go by in one workgroup. */
  readonly split?: number;
  readonly firstRow?: number;
  /** Size of keys and queries; 1 gives scores of about 1. */
  readonly scale?: number;
  /** Keys grow with their position, so that each tile raises the maximum. */
  readonly rising?: boolean;
  /** Lanes of the merge. */
  readonly mergeLanes?: number;
}

/** Rows first .. first + count - 1 of one slot, as a prefill chunk has them. */
export function chunk(slot: number, first: number, count: number): AttentionCase["rows"] {
  return Array.from({ length: count }, (_, i) => ({ slot, position: first + i }));
}

/** Runs a variant, merges splits if there are any, and compares. */
export async function checkAttention(
  rig: Rig,
  v: AttentionVariant,
  c: AttentionCase,
): Promise<void> {
  const { headDim, group, kvType, pageSize } = v;
  const { kvHeads, rows, seed, split, firstRow = 0, scale = 1, rising = false } = c;
  const random = new Random(seed);
  const heads = kvHeads * group;
  const slots = Math.max(...rows.map(({ slot }) => slot)) + 2;
  const last = Math.max(...rows.map(({ position }) => position));
  const maxPages = Math.floor(last / pageSize) + 2;
  const map = new CacheMap({ kvType, kvHeads, headDim, pageSize, maxPages, slots }, random);
  // What has not been written holds no numbers; so does the page of entries never filled in.
  const caches = [0, 1].map(() => new Float32Array(map.length).fill(NaN)) as [
    Float32Array<ArrayBuffer>,
    Float32Array<ArrayBuffer>,
  ];
  for (let slot = 0; slot < slots; slot++) {
    const mine = rows.filter((row) => row.slot === slot).map(({ position }) => position);
    const length = mine.length === 0 ? 0 : Math.max(...mine) + 1;
    map.forget(slot, Math.ceil(length / pageSize));
    for (let position = 0; position < length; position++) {
      for (let h = 0; h < kvHeads; h++) {
        const cell = map.cell(slot, h, position);
        const grown = rising ? scale * (0.1 + position / length) : scale;
        caches[0].set(random.floats(headDim, grown), cell);
        caches[1].set(random.floats(headDim), cell);
      }
    }
  }
  if (kvType === "f16") {
    for (const cache of caches) cache.forEach((x, i) => cache[i] = halfToFloat(floatToHalf(x)));
  }
  const rowHeads = heads + 2 * kvHeads;
  // k and v of the step stand in qkv as well, and a row more than there is: neither is read.
  const qkv = new Float32Array((rows.length + 1) * rowHeads * headDim).fill(NaN);
  const table = new Uint32Array((firstRow + rows.length + 1) * 4).fill(0xffffff);
  rows.forEach(({ slot, position }, row) => {
    qkv.set(random.floats(heads * headDim, scale), row * rowHeads * headDim);
    table.set([0, slot, position, 0], (firstRow + row) * 4);
  });
  const numSplits = split === undefined ? 1 : Math.floor(last / split) + 1;
  const maxSplits = numSplits + 2;
  const partialSize = rows.length * heads * maxSplits * partialStride(headDim);
  const partial = rig.storage(new Float32Array(partialSize).fill(NaN));
  const out = rig.storage(untouched((rows.length + 1) * heads * headDim));
  const rowTable = rig.storage(table);
  const params = rig.uniform(attentionParams({
    numHeads: heads,
    numKvHeads: kvHeads,
    maxPages,
    maxSplits,
    splitKeys: split ?? NO_SPLIT,
  }));
  const step = { num_rows: rows.length, first_row: firstRow, num_splits: numSplits };
  const calls: Call[] = [{
    spec: attentionSpec(v),
    parts: [
      rig.storage(qkv),
      ...caches.map((cache) => rig.storage(packCache(kvType, cache))),
      rig.storage(map.table),
      rowTable,
      out,
      partial,
      params,
    ],
    step,
    workgroups: attentionWorkgroups(v, kvHeads, rows.length, numSplits),
  }];
  if (numSplits > 1) {
    calls.push({
      spec: attentionMergeSpec({ ...v, lanes: c.mergeLanes ?? 8 }),
      parts: [partial, rowTable, out, params],
      step,
      workgroups: rows.length * heads,
    });
  }
  await rig.run(calls);

  const want: (number | null)[] = [];
  rows.forEach(({ slot, position }, row) => {
    for (let head = 0; head < heads; head++) {
      const read = (cache: Float32Array) =>
        Array.from({ length: position + 1 }, (_, p) => {
          const cell = map.cell(slot, Math.floor(head / group), p);
          return Array.from(cache.subarray(cell, cell + headDim));
        });
      const at = (row * rowHeads + head) * headDim;
      const query = Array.from(qkv.subarray(at, at + headDim));
      want.push(...attentionReference(query, read(caches[0]), read(caches[1])));
    }
  });
  for (let i = 0; i < heads * headDim; i++) want.push(null);
  const got = await rig.floats(out, want.length);
  const places = rows.length > 8 ? `${rows.length} rows` : JSON.stringify(rows);
  const where = `${
    attentionSpec(v).variant
  }, ${kvHeads} kv heads, split ${split}, seed ${seed}, ${places}`;
  assertClose(got, want, BOUNDS, where);
}
