/** Chosen rows on the host: by position, not by place. @module */
import { Readback } from "../gpu/readback.ts";
import type { CopySink } from "../kv/block_reader.ts";
import type { SelectionBuffers, SelectionSizes } from "./selection_buffers.ts";

/** By KV head: ascending positions. */
export type HeadLists = readonly Uint32Array<ArrayBuffer>[];

/** The lists of a sequence that is parked in the middle of an interval, by layer; null: none there. */
export type ParkedLists = readonly (HeadLists | null)[];

/** Bytes of what {@linkcode copyLists} copies. */
export function listBytes({ sizes }: SelectionBuffers): number {
  return sizes.numKvHeads * (sizes.listCapacity + 1) * 4;
}

/** Copies what is picked for a slot in a layer; {@linkcode parseLists} takes it apart. */
export function copyLists(
  sink: CopySink,
  buffers: SelectionBuffers,
  layer: number,
  slot: number,
  target: GPUBuffer,
  offset: number,
): void {
  const { numKvHeads, listCapacity } = buffers.sizes;
  const counts = buffers.counts(layer);
  const picked = buffers.picked(layer);
  const size = numKvHeads * 4;
  sink.copy(counts.buffer, counts.offset + slot * size, target, offset, size);
  const from = picked.offset + slot * size * listCapacity;
  sink.copy(picked.buffer, from, target, offset + size, size * listCapacity);
}

/**
 * Takes lists out of what was read from where {@linkcode copyLists} put them. They are copies: lists of
 * different sequences and layers live for different times.
 *
 * @param index How many others were put before them.
 */
export function parseLists(
  { sizes }: { readonly sizes: Pick<SelectionSizes, "numKvHeads" | "listCapacity"> },
  bytes: Uint8Array<ArrayBuffer>,
  index: number,
): HeadLists {
  const { numKvHeads, listCapacity } = sizes;
  const count = numKvHeads * (listCapacity + 1);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + index * count * 4, count);
  return Array.from({ length: numKvHeads }, (_, head) => {
    const at = numKvHeads + head * listCapacity;
    return words.slice(at, at + words[head]!);
  });
}

/**
 * Reads what is picked for a slot.
 *
 * @param wanted By layer: whether something is.
 */
export async function readLists(
  device: GPUDevice,
  sink: CopySink,
  buffers: SelectionBuffers,
  slot: number,
  wanted: readonly boolean[],
  mode?: "sync" | "awaited",
): Promise<ParkedLists> {
  const numLists = wanted.filter((yes) => yes).length;
  if (numLists === 0) return wanted.map(() => null);
  const size = listBytes(buffers);
  using readback = await Readback.create(device, numLists * size, mode);
  let index = 0;
  wanted.forEach((yes, layer) => {
    if (yes) copyLists(sink, buffers, layer, slot, readback.target, index++ * size);
  });
  sink.submit();
  const bytes = await readback.read(numLists * size);
  index = 0;
  return wanted.map((yes) => yes ? parseLists(buffers, bytes, index++) : null);
}
