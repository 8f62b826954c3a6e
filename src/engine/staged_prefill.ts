/**
 * Prefill of a sequence that lies below the device: the rows of a chunk are made in buffers of
 * their own, earlier blocks pass through a stage, and attention adds up over these passes exactly
 * as over one.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel } from "../gpu/kernels.ts";
import {
  attentionMergeSpec,
  attentionParams,
  attentionWorkgroups,
  NO_SPLIT,
  partialStride,
} from "../gpu/ops/attention.ts";
import type { ObservedKeys } from "../butler/scorers/types.ts";
import { type BlockReader, throwFirst, wholeBlocks } from "../kv/block_reader.ts";
import type { OffloadedRows } from "../kv/offloaded.ts";
import { BLOCK_ROWS, NO_PAGE } from "../kv/slab_pool.ts";
import type { Forward } from "./forward.ts";
import type { Submission } from "./submission.ts";
import type { Transit } from "./transit.ts";

/** What staged prefill is built from. */
export interface StagedPrefillOptions {
  readonly forward: Forward;
  readonly maxPrefill: number;
  /** What earlier blocks pass through. */
  readonly transit: Transit;
  readonly reader: BlockReader;
  /** Keys and values of a block of one layer. */
  readonly partBytes: number;
}

/** Counts what the chunk's rows attend to among some keys, which are in place. */
export type ObserveKeys = (submission: Submission, keys: ObservedKeys) => void;

/** A chunk of a sequence below the device. */
export interface StagedChunk {
  readonly slot: number;
  readonly rows: OffloadedRows;
  readonly start: number;
  readonly count: number;
  /** By layer: page of the unfinished block that the chunk goes on with, if any. */
  readonly tails: readonly number[];
}

/** The kernel that adds up passes, and its bindings. */
interface Merges {
  readonly kernel: Kernel;
  /** [first][last] */
  readonly groups: readonly (readonly GPUBindGroup[])[];
}

/** Buffers and bindings for chunks. */
export class StagedPrefill {
  readonly #options: StagedPrefillOptions;
  readonly #keys: GPUBuffer;
  readonly #values: GPUBuffer;
  /** Page i of the chunk is page i; also the table of the stage's passes is bound through it. */
  readonly #ownTable: GPUBuffer;
  /** (slots, max pages) u32: the chunk's pages where a slot's table has its blocks. */
  readonly viewTable: GPUBuffer;
  /** Row tables: positions within the chunk's pages; one position for all. */
  readonly #ownRows: GPUBuffer;
  readonly #fixedRows: GPUBuffer;
  readonly #partial: GPUBuffer;
  readonly #carry: GPUBuffer;
  readonly #uniforms: GPUBuffer[] = [];
  readonly #ropes: GPUBindGroup[];
  readonly #own: GPUBindGroup;
  readonly #staged: GPUBindGroup;
  readonly #slab: GPUBindGroup[];
  readonly #merges: Merges;
  /** The same, and the last pass leaves the logarithm of the sum of each row's weights. */
  #observed: Merges | null = null;
  readonly #rowWords: Uint32Array<ArrayBuffer>;

  private constructor(options: StagedPrefillOptions, mergeKernel: Kernel) {
    const { forward, maxPrefill, partBytes, transit: { stage } } = options;
    const { kernels, config, kv, step } = forward.options;
    const { qkv, attended } = forward.activations;
    const { numHeads, headDim, numLayers } = config;
    this.#options = options;
    const pages = Math.ceil(maxPrefill / BLOCK_ROWS) + 1;
    const f32 = (label: string, count: number) => kernels.storage(label, count * 4);
    this.#keys = kernels.storage("chunk keys", pages * partBytes / 2);
    this.#values = kernels.storage("chunk values", pages * partBytes / 2);
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

    const params = (maxPages: number) => this.#params(maxPages, true, true);
    const { kernel } = forward.attention.prefill;
    const attend = (
      keys: BufferPart,
      values: BufferPart,
      table: BufferPart,
      rows: GPUBuffer,
      uniform: GPUBuffer,
    ) =>
      kernels.bind(kernel, [
        qkv,
        keys,
        values,
        table,
        rows,
        attended,
        this.#partial,
        uniform,
        step,
      ]);
    this.#own = attend(
      this.#keys,
      this.#values,
      this.#ownTable,
      this.#ownRows,
      params(pages),
    );
    this.#staged = attend(
      stage.keys,
      stage.values,
      stage.table,
      this.#fixedRows,
      params(stage.capacity),
    );
    const slabParams = params(kv.maxPages);
    this.#slab = Array.from(
      { length: numLayers },
      (_, layer) =>
        attend(kv.keys(layer), kv.values(layer), kv.table(layer), this.#fixedRows, slabParams),
    );
    this.#ropes = Array.from(
      { length: numLayers },
      (_, layer) => forward.attention.bindRope(layer, this.viewTable, this.#keys, this.#values),
    );
    this.#merges = this.#bindMerges(mergeKernel, []);
  }

  /** Compiles what is not there yet. */
  static async create(options: StagedPrefillOptions): Promise<StagedPrefill> {
    const { kernels, config, plan } = options.forward.options;
    const merge = await kernels.compile(
      attentionMergeSpec({ headDim: config.headDim, lanes: plan.rowLanes, carry: true }),
    );
    return new StagedPrefill(options, merge);
  }

  /**
   * Makes chunks possible whose rows are observed.
   *
   * @param lse (maxPrefill, heads) f32: where maximum + log(normaliser) of each head of a row go.
   */
  async prepareObserved(lse: GPUBuffer): Promise<void> {
    if (this.#observed !== null) return;
    const { kernels, config: { headDim }, plan } = this.#options.forward.options;
    const spec = attentionMergeSpec({ headDim, lanes: plan.rowLanes, carry: true, lse: true });
    this.#observed = this.#bindMerges(await kernels.compile(spec), [lse]);
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

  /** @param more What the kernel writes beside. */
  #bindMerges(kernel: Kernel, more: readonly GPUBuffer[]): Merges {
    const { forward } = this.#options;
    const { kernels, step } = forward.options;
    const { attended } = forward.activations;
    const groups = [false, true].map((first) =>
      [false, true].map((last) =>
        kernels.bind(kernel, [
          this.#partial,
          this.#ownRows,
          attended,
          this.#carry,
          ...more,
          this.#params(1, first, last),
          step,
        ])
      )
    );
    return { kernel, groups };
  }

  /** Keys of the chunk, where the view table says. */
  get keys(): GPUBuffer {
    return this.#keys;
  }

  /** Writes the tables of a chunk; before anything of it is encoded. */
  prepare({ slot, start, count }: StagedChunk): void {
    const { kernels, kv } = this.#options.forward.options;
    const { queue } = kernels.device;
    const first = Math.floor(start / BLOCK_ROWS);
    const last = Math.floor((start + count - 1) / BLOCK_ROWS);
    const pages = Uint32Array.from({ length: last - first + 1 }, (_, i) => i);
    queue.writeBuffer(this.viewTable, (slot * kv.maxPages + first) * 4, pages);
    const offset = start - first * BLOCK_ROWS;
    this.#writeRows(this.#ownRows, count, (row) => [0, offset + row]);
  }

  /** Puts the keys of a layer's rows that were made before where a chunk's own would be. */
  loadKeys(submission: Submission, layer: number, chunk: StagedChunk): void {
    const { forward, partBytes } = this.#options;
    const { kernels, kv } = forward.options;
    const { rows, start, count } = chunk;
    // What was encoded before reads the keys that were there before.
    submission.submit();
    if (layer === 0) this.prepare(chunk);
    const half = partBytes / 2;
    const part = new Uint8Array(partBytes);
    const first = Math.floor(start / BLOCK_ROWS);
    const end = Math.ceil((start + count) / BLOCK_ROWS);
    for (let block = first; block < end; block++) {
      const at = (block - first) * half;
      const page = rows.pageOf(layer, block);
      if (page !== NO_PAGE) {
        submission.copy(kv.keys(layer), page * half, this.#keys, at, half);
      } else {
        rows.stored.readPart(block, layer, part, 0);
        kernels.device.queue.writeBuffer(this.#keys, at, part, 0, half);
      }
    }
  }

  /**
   * Encodes rotation and attention of a layer; may submit what was encoded so far.
   *
   * @param observe Null where nobody counts what the rows attend to.
   */
  async encodeLayer(
    submission: Submission,
    layer: number,
    chunk: StagedChunk,
    store: (submission: Submission) => void,
    observe: ObserveKeys | null,
  ): Promise<void> {
    const { forward, partBytes } = this.#options;
    const { kv } = forward.options;
    const { slot, rows, start, count, tails } = chunk;
    const half = partBytes / 2;
    const firstBlock = Math.floor(start / BLOCK_ROWS);
    if (start % BLOCK_ROWS !== 0) {
      // Rows of this block that were made before.
      const at = tails[layer]! * half;
      submission.copy(kv.keys(layer), at, this.#keys, 0, half);
      submission.copy(kv.values(layer), at, this.#values, 0, half);
    }
    forward.attention.encodeRope(submission.pass, layer, count, 0, this.#ropes[layer]!);
    store(submission);
    const onDevice = firstBlock > 0 && allMapped(rows, layer, firstBlock);
    const merges = observe === null ? this.#merges : this.#observed!;
    this.#pass(submission, this.#own, count, merges, true, firstBlock === 0);
    if (onDevice) {
      submission.submit();
      this.#writeRows(this.#fixedRows, count, () => [slot, firstBlock * BLOCK_ROWS - 1]);
      this.#pass(submission, this.#slab[layer]!, count, merges, false, true);
    } else {
      await this.#stream(submission, layer, chunk, firstBlock, (block, blocks) => {
        this.#writeRows(this.#fixedRows, count, () => [0, blocks * BLOCK_ROWS - 1]);
        const last = block + blocks === firstBlock;
        this.#pass(submission, this.#staged, count, merges, false, last);
      });
    }
    if (observe !== null) await this.#observe(submission, layer, chunk, onDevice, observe);
  }

  /** Sums of weights are known now: each key gets what the chunk's rows gave it. */
  async #observe(
    submission: Submission,
    layer: number,
    chunk: StagedChunk,
    onDevice: boolean,
    observe: ObserveKeys,
  ): Promise<void> {
    const { start, count, slot } = chunk;
    const firstBlock = Math.floor(start / BLOCK_ROWS);
    const first = firstBlock * BLOCK_ROWS;
    submission.submit();
    observe(submission, { source: "chunk", first, count: start + count - first });
    if (onDevice) return observe(submission, { source: "slab", first: 0, count: first });
    await this.#stream(submission, layer, chunk, firstBlock, (block, blocks) => {
      this.#options.transit.show(slot, block, blocks);
      const keys = { first: block * BLOCK_ROWS, count: blocks * BLOCK_ROWS };
      observe(submission, { source: "stage", ...keys });
    });
  }

  /** Lets blocks 0 .. end - 1 of a layer pass through the stage. */
  async #stream(
    submission: Submission,
    layer: number,
    { rows }: StagedChunk,
    end: number,
    pass: (block: number, blocks: number) => void,
  ): Promise<void> {
    const { transit, partBytes } = this.#options;
    const { stage } = transit;
    for (let block = 0; block < end; block += stage.capacity) {
      const blocks = Math.min(stage.capacity, end - block);
      submission.submit();
      rows.stored.readParts(block, blocks, layer, stage.bytes, 0);
      stage.upload(blocks);
      await transit.throttle(blocks * partBytes);
      pass(block, blocks);
    }
  }

  /** After a layer: its rows go where they will be found. */
  async finishLayer(submission: Submission, layer: number, chunk: StagedChunk): Promise<void> {
    const { forward, partBytes, reader } = this.#options;
    const { kv } = forward.options;
    const { rows, start, count } = chunk;
    const half = partBytes / 2;
    const first = Math.floor(start / BLOCK_ROWS);
    const end = Math.ceil((start + count) / BLOCK_ROWS);
    const whole = wholeBlocks(start + count);
    for (let block = first; block < end; block++) {
      const at = (block - first) * half;
      const page = rows.pageOf(layer, block);
      if (page !== NO_PAGE) {
        submission.copy(this.#keys, at, kv.keys(layer), page * half, half);
        submission.copy(this.#values, at, kv.values(layer), page * half, half);
      }
      if (block >= whole) continue;
      const to = { stored: rows.stored, block, layer, numRows: BLOCK_ROWS };
      await reader.add(submission, to, this.#keys, this.#values, at);
    }
  }

  /** After the last layer: whole blocks are in the store when this returns. */
  async finish(submission: Submission): Promise<void> {
    throwFirst(await this.#options.reader.flush(submission));
  }

  #pass(
    submission: Submission,
    group: GPUBindGroup,
    count: number,
    merges: Merges,
    first: boolean,
    last: boolean,
  ): void {
    const { forward } = this.#options;
    const { numHeads, numKvHeads } = forward.options.config;
    const { variant, kernel } = forward.attention.prefill;
    const { pass } = submission;
    dispatch(pass, kernel, group, attentionWorkgroups(variant, numKvHeads, count, 1), 0);
    const merge = merges.groups[Number(first)]![Number(last)]!;
    dispatch(pass, merges.kernel, merge, count * numHeads, 0);
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
    for (const buffer of this.#uniforms) buffer.destroy();
    for (
      const buffer of [
        this.#keys,
        this.#values,
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

function allMapped(rows: OffloadedRows, layer: number, blocks: number): boolean {
  for (let block = 0; block < blocks; block++) {
    if (rows.pageOf(layer, block) === NO_PAGE) return false;
  }
  return true;
}
