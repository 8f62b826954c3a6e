/** A KV cache for the kernel tests: pages in a scrambled order, rows of several slots. */
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import type { Random } from "./_rig.ts";

/** Sizes of a cache. */
export interface CacheShape {
  readonly kvType: "f16" | "f32";
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
  /** Pages of a slot, at most. */
  readonly maxPages: number;
  readonly slots: number;
}

/** Where each row of each slot lies. The last page belongs to nobody. */
export class CacheMap {
  readonly numPages: number;
  /** (slots, maxPages) u32 */
  readonly table: Uint32Array<ArrayBuffer>;

  constructor(readonly shape: CacheShape, random: Random) {
    const used = shape.slots * shape.maxPages;
    this.numPages = used + 1;
    this.table = Uint32Array.from(random.permutation(used));
  }

  /** Lets the table entries of pages that a slot has not come to point to nobody's page. */
  forget(slot: number, firstPage: number): void {
    const { maxPages } = this.shape;
    this.table.fill(this.numPages - 1, slot * maxPages + firstPage, (slot + 1) * maxPages);
  }

  /** Index of the first value of a row. */
  cell(slot: number, kvHead: number, position: number): number {
    const { kvHeads, headDim, pageSize, maxPages } = this.shape;
    const page = this.table[slot * maxPages + Math.floor(position / pageSize)]!;
    return ((page * kvHeads + kvHead) * pageSize + position % pageSize) * headDim;
  }

  /** Values of the whole cache. */
  get length(): number {
    const { kvHeads, headDim, pageSize } = this.shape;
    return this.numPages * kvHeads * pageSize * headDim;
  }
}

/** Words of a cache that holds `values`. */
export function packCache(
  kvType: "f16" | "f32",
  values: Float32Array<ArrayBuffer>,
): Uint32Array<ArrayBuffer> {
  if (kvType === "f32") return new Uint32Array(values.buffer);
  return new Uint32Array(Uint16Array.from(values, floatToHalf).buffer);
}

/** Values of a cache given by its words. */
export function unpackCache(kvType: "f16" | "f32", words: Uint32Array): Float32Array {
  if (kvType === "f32") return new Float32Array(words.buffer, words.byteOffset, words.length);
  const halves = new Uint16Array(words.buffer, words.byteOffset, words.length * 2);
  return Float32Array.from(halves, halfToFloat);
}

/** Words that `length` values take. */
export function cacheWords(kvType: "f16" | "f32", length: number): number {
  return kvType === "f32" ? length : length / 2;
}
