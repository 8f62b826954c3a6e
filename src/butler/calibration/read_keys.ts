/** Reads keys of a sequence back from the device. @module */
import type { EngineParts } from "../../engine/create.ts";
import { Readback } from "../../gpu/readback.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import { halfToFloat } from "../../model/quants.ts";

/** Rows that can be read at once. */
export const MOST_KEY_ROWS = 256;

/** Sizes of the keys of a layer. */
export interface KeyShape {
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** An engine whose keys can be read. */
export interface KeySource extends KeyShape, Disposable {
  readonly parts: Pick<EngineParts, "kv" | "device" | "info">;
  readonly readback: Readback;
}

/** Makes the keys of an engine readable. Dispose of it. */
export async function openKeys(
  parts: Pick<EngineParts, "kv" | "device" | "info">,
  { numKvHeads, headDim }: KeyShape,
): Promise<KeySource> {
  // Rows need not begin with a page.
  const bytes = (MOST_KEY_ROWS / BLOCK_ROWS + 1) * pageBytes(parts, { numKvHeads, headDim });
  const readback = await Readback.create(parts.device, bytes);
  return {
    parts,
    numKvHeads,
    headDim,
    readback,
    [Symbol.dispose]: () => readback[Symbol.dispose](),
  };
}

/**
 * Reads the keys of one layer as attention sees them: after RoPE.
 *
 * @param first Position of the first row.
 * @param count Rows, at most {@linkcode MOST_KEY_ROWS}; all of them written by a step that is over.
 * @returns (KV heads, count, head size)
 * @throws {RangeError} If there are too many rows, or the sequence cannot have them.
 */
export async function readKeys(
  source: KeySource,
  slot: number,
  layer: number,
  first: number,
  count: number,
): Promise<Float32Array<ArrayBuffer>> {
  const { parts: { kv, device, info }, readback, numKvHeads, headDim } = source;
  if (count < 1 || count > MOST_KEY_ROWS || first < 0 || first + count > kv.device.contextLength) {
    throw new RangeError(`cannot read the keys ${first} to ${first + count} in one go`);
  }
  const firstPage = Math.floor(first / BLOCK_ROWS);
  const numPages = Math.ceil((first + count) / BLOCK_ROWS) - firstPage;
  const pages = Array.from(
    { length: numPages },
    (_, index) => kv.device.pool.pageOf(layer, slot, firstPage + index),
  );
  const bytes = pageBytes(source.parts, source);
  const encoder = device.createCommandEncoder({ label: "read keys" });
  pages.forEach((page, index) => {
    const keys = kv.device.keys(layer);
    encoder.copyBufferToBuffer(keys, page * bytes, readback.target, index * bytes, bytes);
  });
  device.queue.submit([encoder.finish()]);
  const raw = (await readback.read(numPages * bytes)).slice().buffer;
  // (pages, KV heads, BLOCK_ROWS, head size)
  const values = info.kv.type === "f32"
    ? new Float32Array(raw)
    : Float32Array.from(new Uint16Array(raw), halfToFloat);
  const keys = new Float32Array(numKvHeads * count * headDim);
  for (let row = 0; row < count; row++) {
    const at = first + row - firstPage * BLOCK_ROWS;
    for (let head = 0; head < numKvHeads; head++) {
      const page = Math.floor(at / BLOCK_ROWS) * numKvHeads + head;
      const cell = (page * BLOCK_ROWS + at % BLOCK_ROWS) * headDim;
      keys.set(values.subarray(cell, cell + headDim), (head * count + row) * headDim);
    }
  }
  return keys;
}

function pageBytes(parts: Pick<EngineParts, "info">, shape: KeyShape): number {
  return shape.numKvHeads * BLOCK_ROWS * shape.headDim * (parts.info.kv.type === "f32" ? 4 : 2);
}
