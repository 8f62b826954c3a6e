/**
 * Rows of keys and values for contexts that no one would wait to see prefilled: those of a prompt
 * that was, read back from the device, and after them the same again and again, their keys turned to
 * the new positions.
 *
 * @module
 */
import type { EngineParts } from "../src/engine/create.ts";
import { Readback } from "../src/gpu/readback.ts";
import type { DeviceTier } from "../src/kv/device_tier.ts";
import type { KvStore } from "../src/kv/store/types.ts";
import { BLOCK_ROWS, NO_PAGE } from "../src/kv/slab_pool.ts";
import { TieredCache } from "../src/kv/tiered_cache.ts";
import { ropeForContext } from "../src/model/rope.ts";
import type { ModelConfig, RopeConfig } from "../src/model/types.ts";
import { rotateKeys, turnOf } from "./_rotate.ts";

/** Sizes of rows. */
export interface RowShape {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: "f16" | "f32";
}

/** Rows 0 .. 32 numBlocks - 1 of a sequence, on the host. */
export interface CapturedRows {
  readonly shape: RowShape;
  readonly rope: RopeConfig;
  readonly numBlocks: number;
  /** By layer: (blocks, keys and values, KV heads, 32, head size), as the cache stores them. */
  readonly layers: readonly Uint8Array<ArrayBuffer>[];
}

/** Bytes of keys and values of a block in one layer: keys first. */
export function partBytes({ numKvHeads, headDim, kvType }: RowShape): number {
  return 2 * numKvHeads * BLOCK_ROWS * headDim * (kvType === "f16" ? 2 : 4);
}

/** Which captured block a block repeats, and how far its keys are moved. */
export function sourceOf(block: number, numBlocks: number): { source: number; distance: number } {
  if (block < numBlocks) return { source: block, distance: 0 };
  // Not the first one: its keys draw attention wherever they are, and real text has them but once.
  const source = numBlocks === 1 ? 0 : 1 + (block - numBlocks) % (numBlocks - 1);
  return { source, distance: (block - source) * BLOCK_ROWS };
}

/**
 * Writes a block of one layer, repeated where it was not captured.
 *
 * @param out {@linkcode partBytes} bytes, at a multiple of 4.
 */
export function writeRows(
  { shape, rope, numBlocks, layers }: CapturedRows,
  layer: number,
  block: number,
  out: Uint8Array<ArrayBuffer>,
): void {
  const bytes = partBytes(shape);
  const { source, distance } = sourceOf(block, numBlocks);
  const part = layers[layer]!.subarray(source * bytes, (source + 1) * bytes);
  out.set(part);
  if (distance === 0) return;
  const values = shape.kvType === "f16" ? Float16Array : Float32Array;
  const count = bytes / 2 / values.BYTES_PER_ELEMENT;
  const keys = new values(part.buffer, part.byteOffset, count);
  const turned = new values(out.buffer, out.byteOffset, count);
  rotateKeys(rope, shape.headDim, turnOf(rope, distance), keys, turned);
}

/** The device's part of an engine's cache. */
export function deviceTier({ kv }: Pick<EngineParts, "kv">): DeviceTier {
  const cache: DeviceTier | TieredCache = kv;
  return cache instanceof TieredCache ? cache.device : cache;
}

/** Reads the first blocks of a sequence back, all of them on the device and whole. */
export async function captureRows(
  parts: EngineParts,
  config: ModelConfig,
  slot: number,
  numBlocks: number,
): Promise<CapturedRows> {
  const tier = deviceTier(parts);
  const { numKvHeads, headDim, numLayers } = config;
  const shape: RowShape = { numKvHeads, headDim, kvType: parts.info.kv.type };
  const bytes = partBytes(shape);
  using readback = await Readback.create(parts.device, numBlocks * bytes);
  const layers: Uint8Array<ArrayBuffer>[] = [];
  for (let layer = 0; layer < numLayers; layer++) {
    const encoder = parts.device.createCommandEncoder({ label: "capture rows" });
    for (let block = 0; block < numBlocks; block++) {
      const from = tier.pool.pageOf(layer, slot, block) * bytes / 2;
      [tier.keys(layer), tier.values(layer)].forEach((buffer, half) => {
        const to = (block + half / 2) * bytes;
        encoder.copyBufferToBuffer(buffer, from, readback.target, to, bytes / 2);
      });
    }
    parts.device.queue.submit([encoder.finish()]);
    layers.push((await readback.read(numBlocks * bytes)).slice());
  }
  return { shape, rope: ropeForContext(config.rope, tier.contextLength), numBlocks, layers };
}

/**
 * Puts blocks 0 .. numBlocks - 1 into a store, where any sequence can have them as its prefix.
 *
 * @param ids Tokens that they pass for; at least 32 of each block.
 * @returns What to adopt them by.
 * @throws {StoreFullError} If there is no room.
 */
export function storeRows(
  store: KvStore,
  rows: CapturedRows,
  numBlocks: number,
  ids: readonly number[],
): readonly string[] {
  const keys = store.prefixKeys(ids.slice(0, numBlocks * BLOCK_ROWS));
  const part = new Uint8Array(partBytes(rows.shape));
  using sequence = store.open();
  keys.forEach((key, block) => {
    for (let layer = 0; layer < rows.layers.length; layer++) {
      writeRows(rows, layer, block, part);
      sequence.putPart(block, layer, part);
    }
    store.offerPrefix(key, sequence, block);
  });
  return keys;
}

/** Bytes that are sent before the queue is told to take them in. */
const SEND_BYTES = 64 * 2 ** 20;

/** Writes those of blocks first .. first + count - 1 of a sequence that have pages on the device. */
export function placeRows(
  parts: EngineParts,
  rows: CapturedRows,
  slot: number,
  first: number,
  count: number,
): void {
  const tier = deviceTier(parts);
  const { queue } = parts.device;
  const part = new Uint8Array(partBytes(rows.shape));
  const half = part.length / 2;
  let sent = 0;
  for (let layer = 0; layer < rows.layers.length; layer++) {
    for (let block = first; block < first + count; block++) {
      const page = tier.pool.pageOf(layer, slot, block);
      if (page === NO_PAGE) continue;
      writeRows(rows, layer, block, part);
      queue.writeBuffer(tier.keys(layer), page * half, part, 0, half);
      queue.writeBuffer(tier.values(layer), page * half, part, half, half);
      sent += part.length;
      if (sent < SEND_BYTES) continue;
      queue.submit([]);
      sent = 0;
    }
  }
  queue.submit([]);
}
