/**
 * Where chunks of sequences below the device are made: buffers for their keys and values, tables and
 * bindings of each pass of their attention, and of what adds the passes up.
 *
 * @module
 */
import type { BufferPart, Kernel } from "../../gpu/kernels.ts";
import {
  attentionMergeSpec,
  attentionParams,
  NO_SPLIT,
  partialStride,
} from "../../gpu/ops/attention.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import type { Stage } from "../../kv/stage.ts";
import type { Forward } from "../forward.ts";

/** What {@linkcode ChunkBuffers} are made for. */
export interface ChunkBufferOptions {
  readonly forward: Forward;
  /** Rows of a chunk, at most. */
  readonly maxPrefill: number;
  /** What earlier blocks pass through. */
  readonly stage: Stage;
  /** Keys and values of a block of one layer. */
  readonly partBytes: number;
}

/** The kernel that adds up passes, and its bindings. */
export interface Merges {
  readonly kernel: Kernel;
  /** [first][last] */
  readonly groups: readonly (readonly GPUBindGroup[])[];
}

/** Bindings of attention, by where a pass has its keys. */
export interface PassGroups {
  /** The chunk's own. */
  readonly own: GPUBindGroup;
  /** Earlier blocks, on the stage. */
  readonly staged: GPUBindGroup;
  /** Earlier blocks, by layer, in the slabs. */
  readonly slab: readonly GPUBindGroup[];
}

/** Buffers and bindings. */
export class ChunkBuffers implements Disposable {
  readonly keys: GPUBuffer;
  readonly values: GPUBuffer;
  /** (slots, max pages) u32: the chunk's pages where a slot's table has its blocks. */
  readonly viewTable: GPUBuffer;
  readonly passes: PassGroups;
  /** By layer: rotation of the chunk's rows, whose keys and values go into it. */
  readonly ropes: readonly GPUBindGroup[];
  readonly #options: ChunkBufferOptions;
  /** Page i of the chunk is page i; also the table of the stage's passes is bound through it. */
  readonly #ownTable: GPUBuffer;
  /** Row tables: positions within the chunk's pages; one position for all. */
  readonly #ownRows: GPUBuffer;
  readonly #fixedRows: GPUBuffer;
  readonly #partial: GPUBuffer;
  readonly #carry: GPUBuffer;
  readonly #uniforms: GPUBuffer[] = [];
  readonly #rowWords: Uint32Array<ArrayBuffer>;

  constructor(options: ChunkBufferOptions) {
    const { forward, maxPrefill, partBytes } = options;
    const { kernels, config: { numHeads, headDim, numLayers }, kv } = forward.options;
    this.#options = options;
    const pages = Math.ceil(maxPrefill / BLOCK_ROWS) + 1;
    const f32 = (label: string, count: number) => kernels.storage(label, count * 4);
    this.keys = kernels.storage("chunk keys", pages * partBytes / 2);
    this.values = kernels.storage("chunk values", pages * partBytes / 2);
    this.#ownTable = f32("chunk pages", pages);
    this.viewTable = f32("chunk view", kv.numSlots * kv.maxPages);
    this.#ownRows = f32("chunk rows", maxPrefill * 4);
    this.#fixedRows = f32("fixed rows", maxPrefill * 4);
    const heads = maxPrefill * numHeads;
    this.#partial = f32("chunk partial", heads * partialStride(headDim));
    this.#carry = f32("chunk carry", heads * partialStride(headDim));
    this.#rowWords = new Uint32Array(maxPrefill * 4);
    const { queue } = kernels.device;
    queue.writeBuffer(this.#ownTable, 0, Uint32Array.from({ length: pages }, (_, i) => i));
    this.passes = this.#bindPasses(pages);
    this.ropes = Array.from(
      { length: numLayers },
      (_, layer) => forward.attention.bindRope(layer, this.viewTable, this.keys, this.values),
    );
  }

  #bindPasses(pages: number): PassGroups {
    const { forward, stage } = this.#options;
    const { kernels, config: { numLayers }, kv, step } = forward.options;
    const { qkv, attended } = forward.activations;
    const { kernel } = forward.attention.prefill;
    const attend = (
      keys: BufferPart,
      values: BufferPart,
      table: BufferPart,
      rows: GPUBuffer,
      params: GPUBuffer,
    ) =>
      kernels.bind(kernel, [
        qkv,
        keys,
        values,
        table,
        rows,
        attended,
        this.#partial,
        params,
        step,
      ]);
    const params = (maxPages: number) => this.#params(maxPages, true, true);
    const [ownParams, stageParams] = [params(pages), params(stage.capacity)];
    const slabParams = params(kv.maxPages);
    return {
      own: attend(this.keys, this.values, this.#ownTable, this.#ownRows, ownParams),
      staged: attend(stage.keys, stage.values, stage.table, this.#fixedRows, stageParams),
      slab: Array.from(
        { length: numLayers },
        (_, layer) =>
          attend(kv.keys(layer), kv.values(layer), kv.table(layer), this.#fixedRows, slabParams),
      ),
    };
  }

  /**
   * What adds up passes; compiles what is not there yet.
   *
   * @param lse (maxPrefill, heads) f32: where the last pass leaves maximum + log(normaliser) of each
   * head of a row; null: nowhere.
   */
  async createMerges(lse: GPUBuffer | null): Promise<Merges> {
    const { forward } = this.#options;
    const { kernels, config: { headDim }, plan, step } = forward.options;
    const kernel = await kernels.compile(
      attentionMergeSpec({ headDim, lanes: plan.rowLanes, carry: true, lse: lse !== null }),
    );
    const { attended } = forward.activations;
    const groups = [false, true].map((first) =>
      [false, true].map((last) =>
        kernels.bind(kernel, [
          this.#partial,
          this.#ownRows,
          attended,
          this.#carry,
          ...(lse === null ? [] : [lse]),
          this.#params(1, first, last),
          step,
        ])
      )
    );
    return { kernel, groups };
  }

  #params(maxPages: number, first: boolean, last: boolean): GPUBuffer {
    const { kernels, config: { numHeads, numKvHeads } } = this.#options.forward.options;
    const buffer = kernels.uniform(
      "chunk params",
      attentionParams({
        numHeads,
        numKvHeads,
        maxPages,
        maxSplits: 1,
        splitKeys: NO_SPLIT,
        partialOnly: true,
        firstPass: first,
        lastPass: last,
      }),
    );
    this.#uniforms.push(buffer);
    return buffer;
  }

  /** Writes the tables of a chunk of a slot: rows start .. start + count - 1. */
  place(slot: number, start: number, count: number): void {
    const { kernels, kv } = this.#options.forward.options;
    const first = Math.floor(start / BLOCK_ROWS);
    const last = Math.floor((start + count - 1) / BLOCK_ROWS);
    const pages = Uint32Array.from({ length: last - first + 1 }, (_, i) => i);
    const at = (slot * kv.maxPages + first) * 4;
    kernels.device.queue.writeBuffer(this.viewTable, at, pages);
    const offset = start - first * BLOCK_ROWS;
    this.#writeRows(this.#ownRows, count, (row) => [0, offset + row]);
  }

  /** Has all rows of a chunk attend, in passes over earlier blocks, up to one position. */
  attendUpTo(count: number, slot: number, position: number): void {
    this.#writeRows(this.#fixedRows, count, () => [slot, position]);
  }

  #writeRows(
    buffer: GPUBuffer,
    count: number,
    place: (row: number) => readonly [slot: number, position: number],
  ): void {
    const words = this.#rowWords;
    for (let row = 0; row < count; row++) {
      const [slot, position] = place(row);
      words[row * 4 + 1] = slot;
      words[row * 4 + 2] = position;
    }
    const { queue } = this.#options.forward.options.kernels.device;
    queue.writeBuffer(buffer, 0, words, 0, count * 4);
  }

  [Symbol.dispose](): void {
    for (
      const buffer of [
        ...this.#uniforms,
        this.keys,
        this.values,
        this.#ownTable,
        this.viewTable,
        this.#ownRows,
        this.#fixedRows,
        this.#partial,
        this.#carry,
      ]
    ) buffer.destroy();
  }
}
