/** The lists of a sequence that is parked in the middle of an interval: by position, not by place. @module */
import { Readback } from "../gpu/readback.ts";
import type { CopySink } from "../kv/block_reader.ts";
import type { SelectionBuffers } from "./selection_buffers.ts";

/** By layer: (KV heads) counts, then (KV heads, capacity) positions; null: nothing is selected there. */
export interface ParkedLists {
  readonly capacity: number;
  readonly layers: readonly (Uint32Array<ArrayBuffer> | null)[];
}

/**
 * Reads the lists that a slot uses now.
 *
 * @param wanted By layer: whether something is selected.
 */
export async function readLists(
  device: GPUDevice,
  sink: CopySink,
  buffers: SelectionBuffers,
  slot: number,
  wanted: readonly boolean[],
  mode?: "sync" | "awaited",
): Promise<ParkedLists> {
  const { numKvHeads, listCapacity } = buffers.sizes;
  const words = numKvHeads * (listCapacity + 1);
  const numLists = wanted.filter((yes) => yes).length;
  if (numLists === 0) return { capacity: listCapacity, layers: wanted.map(() => null) };
  using readback = await Readback.create(device, numLists * words * 4, mode);
  let index = 0;
  wanted.forEach((yes, layer) => {
    if (!yes) return;
    const counts = buffers.counts(layer);
    const picked = buffers.picked(layer);
    const at = index++ * words * 4;
    const countBytes = numKvHeads * 4;
    const listBytes = numKvHeads * listCapacity * 4;
    const { target } = readback;
    sink.copy(counts.buffer, counts.offset + slot * countBytes, target, at, countBytes);
    const from = picked.offset + slot * listBytes;
    sink.copy(picked.buffer, from, target, at + countBytes, listBytes);
  });
  sink.submit();
  const all = new Uint32Array((await readback.read(numLists * words * 4)).slice().buffer);
  index = 0;
  return {
    capacity: listCapacity,
    layers: wanted.map((yes) => yes ? all.slice(index * words, ++index * words) : null),
  };
}

/** The list of a KV head. */
export function parkedList(
  { capacity }: ParkedLists,
  words: Uint32Array<ArrayBuffer>,
  kvHead: number,
  numKvHeads: number,
): Uint32Array<ArrayBuffer> {
  const at = numKvHeads + kvHead * capacity;
  return words.subarray(at, at + words[kvHead]!);
}
