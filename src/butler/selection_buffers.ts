/**
 * Device memory that selections are made in and kept in. One declaration of sizes for all kernels
 * that read and write it.
 *
 * @module
 */
import type { BufferPart, Kernels } from "../gpu/kernels.ts";
import { maximaAt, recipeStride, scoreStride } from "../gpu/ops/list_params.ts";
import { selectionHeader, selectionStride } from "../gpu/ops/selection.ts";

/** Sizes of {@linkcode SelectionBuffers}. */
export interface SelectionSizes {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly numSlots: number;
  /** Rows of a decode step, at most. */
  readonly maxRows: number;
  readonly contextLength: number;
  /** Rows that a list has room for. */
  readonly listCapacity: number;
  /** Recipes that a slot has in a layer: one for each way of scoring. */
  readonly numKinds: number;
}

/** Lists, recipes and scores. */
export class SelectionBuffers {
  readonly sizes: SelectionSizes;
  /** Some recipe asks for neighbours. */
  wantsNeighbours = false;
  /** u32 of a slot's selection, and of its recipe. */
  readonly selectionStride: number;
  readonly recipeStride: number;
  readonly scoreStride: number;
  readonly maximaAt: number;
  /** (rows, KV heads, scoreStride); what a layer leaves, the next one overwrites. */
  readonly scores: GPUBuffer;
  readonly scratch: GPUBuffer;
  /** (rows, heads, 16) f32 */
  readonly queries: GPUBuffer;
  readonly #kernels: Kernels;
  readonly #selection: Layered;
  readonly #recipes: Layered;
  readonly #picked: Layered;
  readonly #counts: Layered;
  #listed: Layered | null = null;
  readonly #recipeWords: Uint32Array<ArrayBuffer>;

  constructor(kernels: Kernels, sizes: SelectionSizes, numHeads: number) {
    const { numLayers, numKvHeads, numSlots, maxRows, contextLength, listCapacity } = sizes;
    this.#kernels = kernels;
    this.sizes = sizes;
    this.selectionStride = selectionStride(numKvHeads, listCapacity);
    this.recipeStride = recipeStride(numKvHeads);
    this.scoreStride = scoreStride(contextLength);
    this.maximaAt = maximaAt(contextLength);
    const layered = (label: string, words: number) => new Layered(kernels, label, numLayers, words);
    this.#selection = layered("selection", numSlots * this.selectionStride);
    this.#recipes = new Layered(
      kernels,
      "recipes",
      numLayers * sizes.numKinds,
      numSlots * this.recipeStride,
    );
    this.#picked = layered("picked", numSlots * numKvHeads * listCapacity);
    this.#counts = layered("picked counts", numSlots * numKvHeads);
    this.#recipeWords = new Uint32Array(this.#recipes.buffer.size / 4);
    const lists = maxRows * numKvHeads;
    this.scores = kernels.storage("scores", lists * this.scoreStride * 4);
    this.scratch = kernels.storage("selection scratch", lists * 2 * this.scoreStride * 4);
    this.queries = kernels.storage("importance queries", maxRows * numHeads * 16 * 4);
  }

  /** (slots, selectionStride) u32 of a layer. */
  selection(layer: number): BufferPart {
    return this.#selection.part(layer);
  }

  /** (slots, recipeStride) u32 of a layer and a way of scoring. */
  recipes(kind: number, layer: number): BufferPart {
    return this.#recipes.part(kind * this.sizes.numLayers + layer);
  }

  /** (slots, KV heads, listCapacity) u32 of a layer: positions, ascending. */
  picked(layer: number): BufferPart & { buffer: GPUBuffer; offset: number } {
    return this.#picked.part(layer);
  }

  /**
   * (slots, KV heads, listCapacity) u32 of a layer: positions of the rows of lists that the host made,
   * in the order of the lists. There from the first call on.
   */
  listed(layer: number): BufferPart & { buffer: GPUBuffer; offset: number } {
    const { numLayers, numKvHeads, numSlots, listCapacity } = this.sizes;
    const words = numSlots * numKvHeads * listCapacity;
    this.#listed ??= new Layered(this.#kernels, "listed positions", numLayers, words);
    return this.#listed.part(layer);
  }

  /** Whether there is room for what {@linkcode listed} has. */
  get isListed(): boolean {
    return this.#listed !== null;
  }

  /** (slots, KV heads) u32 of a layer. */
  counts(layer: number): BufferPart & { buffer: GPUBuffer; offset: number } {
    return this.#counts.part(layer);
  }

  /** Words of a slot's recipe in a layer, to be filled in place; {@linkcode sendRecipes} follows. */
  recipeWords(kind: number, layer: number, slot: number): Uint32Array {
    const part = kind * this.sizes.numLayers + layer;
    const at = part * this.#recipes.strideWords + slot * this.recipeStride;
    return this.#recipeWords.subarray(at, at + this.recipeStride);
  }

  /** Sends all recipes to the device. */
  sendRecipes(): void {
    this.#kernels.device.queue.writeBuffer(this.#recipes.buffer, 0, this.#recipeWords);
  }

  /**
   * Writes a slot's selection: its header, and lists if any.
   *
   * @param words From the header on; lists of different heads are `listCapacity` apart.
   */
  writeSelection(layer: number, slot: number, words: Uint32Array<ArrayBuffer>): void {
    const { offset } = this.#selection.part(layer);
    this.#kernels.device.queue.writeBuffer(
      this.#selection.buffer,
      offset + slot * this.selectionStride * 4,
      words,
    );
  }

  /**
   * Writes the positions that a slot's lists stand for.
   *
   * @param counts (KV heads)
   * @param positions (KV heads, at least the counts)
   */
  writePicks(
    layer: number,
    slot: number,
    counts: Uint32Array<ArrayBuffer>,
    positions: readonly Uint32Array<ArrayBuffer>[],
  ): void {
    const to = this.counts(layer);
    const { queue } = this.#kernels.device;
    queue.writeBuffer(to.buffer, to.offset + slot * this.sizes.numKvHeads * 4, counts);
    this.#writeLists(this.picked(layer), slot, positions);
  }

  /** Writes what {@linkcode listed} says of a slot's lists. */
  writeListed(layer: number, slot: number, positions: readonly Uint32Array<ArrayBuffer>[]): void {
    this.#writeLists(this.listed(layer), slot, positions);
  }

  #writeLists(to: ListPart, slot: number, lists: readonly Uint32Array<ArrayBuffer>[]): void {
    const { numKvHeads, listCapacity } = this.sizes;
    lists.forEach((list, head) => {
      // Writing nothing ends the process in Deno.
      if (list.length === 0) return;
      const at = to.offset + (slot * numKvHeads + head) * listCapacity * 4;
      this.#kernels.device.queue.writeBuffer(to.buffer, at, list);
    });
  }

  /** Words of a selection before its lists. */
  get headerWords(): number {
    return selectionHeader(this.sizes.numKvHeads);
  }

  /** Takes over what is selected for every slot from smaller buffers. */
  copyFrom(old: SelectionBuffers, encoder: GPUCommandEncoder): void {
    const { numLayers, numSlots, numKvHeads, listCapacity } = old.sizes;
    const header = this.headerWords;
    for (let layer = 0; layer < numLayers; layer++) {
      this.#copyPicks(old, layer, encoder);
      const from = old.#selection.part(layer).offset / 4;
      const to = this.#selection.part(layer).offset / 4;
      for (let slot = 0; slot < numSlots; slot++) {
        const copy = (at: number, newAt: number, words: number) =>
          encoder.copyBufferToBuffer(
            old.#selection.buffer,
            (from + slot * old.selectionStride + at) * 4,
            this.#selection.buffer,
            (to + slot * this.selectionStride + newAt) * 4,
            words * 4,
          );
        copy(0, 0, header);
        for (let head = 0; head < numKvHeads; head++) {
          copy(
            header + head * listCapacity,
            header + head * this.sizes.listCapacity,
            listCapacity,
          );
        }
      }
    }
  }

  #copyPicks(old: SelectionBuffers, layer: number, encoder: GPUCommandEncoder): void {
    const { numSlots, numKvHeads, listCapacity } = old.sizes;
    const lists = numSlots * numKvHeads;
    const counts = this.counts(layer);
    const oldCounts = old.counts(layer);
    encoder.copyBufferToBuffer(
      oldCounts.buffer,
      oldCounts.offset,
      counts.buffer,
      counts.offset,
      lists * 4,
    );
    const copy = (from: ListPart, to: ListPart) => {
      for (let list = 0; list < lists; list++) {
        encoder.copyBufferToBuffer(
          from.buffer,
          from.offset + list * listCapacity * 4,
          to.buffer,
          to.offset + list * this.sizes.listCapacity * 4,
          listCapacity * 4,
        );
      }
    };
    copy(old.picked(layer), this.picked(layer));
    if (old.#listed !== null) copy(old.#listed.part(layer), this.listed(layer));
  }

  /** No recipe of a slot counts any more; {@linkcode sendRecipes} follows with the next ones. */
  clearRecipes(slot: number): void {
    const { numLayers, numKinds } = this.sizes;
    for (let kind = 0; kind < numKinds; kind++) {
      for (let layer = 0; layer < numLayers; layer++) this.recipeWords(kind, layer, slot).fill(0);
    }
  }

  [Symbol.dispose](): void {
    for (const part of [this.#selection, this.#recipes, this.#picked, this.#counts]) {
      part.buffer.destroy();
    }
    this.#listed?.buffer.destroy();
    for (const buffer of [this.scores, this.scratch, this.queries]) buffer.destroy();
  }
}

/** Where the lists of a layer begin. */
interface ListPart {
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

/** One buffer with a part for each layer, each at an offset that can be bound. */
class Layered {
  readonly buffer: GPUBuffer;
  readonly strideWords: number;
  readonly #words: number;

  constructor(kernels: Kernels, label: string, numLayers: number, words: number) {
    const unit = kernels.caps.storageAlignment / 4;
    this.#words = words;
    this.strideWords = Math.ceil(words / unit) * unit;
    this.buffer = kernels.storage(label, numLayers * this.strideWords * 4);
  }

  part(layer: number): { buffer: GPUBuffer; offset: number; size: number } {
    return { buffer: this.buffer, offset: layer * this.strideWords * 4, size: this.#words * 4 };
  }
}
