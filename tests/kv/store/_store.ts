/** Small stores for tests, and rows that tell where they belong. @module */
import { RowStore } from "../../../src/kv/store/row_store.ts";
import { sizesOf } from "../../../src/kv/store/sizes.ts";
import type { StoreOptions, StoreShape } from "../../../src/kv/store/types.ts";

/** A part of it has 2 x 3 x 32 x 2 x 2 = 768 bytes. */
export const SHAPE: StoreShape = { numLayers: 3, numKvHeads: 3, headDim: 2, bytesPerValue: 2 };
export const SIZES = sizesOf(SHAPE);

/** A store of so many blocks in host memory and on disk. */
export function makeStore(
  hostBlocks: number,
  diskBlocks: number | null,
  more: Partial<StoreOptions> & { dir?: string } = {},
): { store: RowStore; warnings: string[] } {
  const warnings: string[] = [];
  const { dir = "/spill", ...options } = more;
  const store = new RowStore({
    shape: SHAPE,
    fingerprint: "model",
    hostBytes: hostBlocks * SIZES.block,
    disk: diskBlocks === null ? null : { dir, bytes: diskBlocks * SIZES.file },
    prefixDir: null,
    onWarning: (message) => warnings.push(message),
    ...options,
  });
  return { store, warnings };
}

/** A part that differs from those of all other seeds. */
export function makePart(seed: number): Uint8Array {
  const part = new Uint8Array(SIZES.part);
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) >>> 0;
  for (let i = 0; i < part.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    part[i] = state >>> 24;
  }
  return part;
}

/** What gathering must give: rows picked one by one from whole parts. */
export function pickRows(
  parts: readonly Uint8Array[],
  head: number,
  positions: readonly number[],
): Uint8Array {
  const { row, run } = SIZES;
  const out = new Uint8Array(positions.length * 2 * row);
  positions.forEach((position, i) => {
    const part = parts[position >> 5]!;
    const keys = head * run + (position & 31) * row;
    const values = keys + SHAPE.numKvHeads * run;
    out.set(part.subarray(keys, keys + row), i * 2 * row);
    out.set(part.subarray(values, values + row), i * 2 * row + row);
  });
  return out;
}
