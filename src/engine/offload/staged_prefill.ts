/**
 * Prefill of a sequence that lies below the device: the rows of a chunk are made in buffers of
 * their own, earlier blocks pass through a stage, and attention adds up over these passes exactly
 * as over one.
 *
 * @module
 */
import { dispatch } from "../../gpu/kernels.ts";
import { attentionWorkgroups } from "../../gpu/ops/attention.ts";
import type { ObservedKeys } from "../../butler/scorers/types.ts";
import { type BlockReader, throwFirst, wholeBlocks } from "../../kv/block_reader.ts";
import type { OffloadedRows } from "../../kv/offloaded.ts";
import { BLOCK_ROWS, NO_PAGE } from "../../kv/slab_pool.ts";
import type { Forward } from "../forward.ts";
import type { Submission } from "../submission.ts";
import { ChunkBuffers, type Merges } from "./chunk_buffers.ts";
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

/** Encodes chunks. */
export class StagedPrefill implements Disposable {
  readonly #options: StagedPrefillOptions;
  readonly #buffers: ChunkBuffers;
  readonly #merges: Merges;
  /** The same, and the last pass leaves the logarithm of the sum of each row's weights. */
  #observed: Merges | null = null;

  private constructor(options: StagedPrefillOptions, buffers: ChunkBuffers, merges: Merges) {
    this.#options = options;
    this.#buffers = buffers;
    this.#merges = merges;
  }

  /** Compiles what is not there yet. */
  static async create(options: StagedPrefillOptions): Promise<StagedPrefill> {
    const buffers = new ChunkBuffers({ ...options, stage: options.transit.stage });
    return new StagedPrefill(options, buffers, await buffers.createMerges(null));
  }

  /**
   * Makes chunks possible whose rows are observed.
   *
   * @param lse (maxPrefill, heads) f32: where maximum + log(normaliser) of each head of a row go.
   */
  async prepareObserved(lse: GPUBuffer): Promise<void> {
    this.#observed ??= await this.#buffers.createMerges(lse);
  }

  /** Keys of the chunk, where the view table says. */
  get keys(): GPUBuffer {
    return this.#buffers.keys;
  }

  /** (slots, max pages) u32: the chunk's pages where a slot's table has its blocks. */
  get viewTable(): GPUBuffer {
    return this.#buffers.viewTable;
  }

  /** Writes the tables of a chunk; before anything of it is encoded. */
  prepare({ slot, start, count }: StagedChunk): void {
    this.#buffers.place(slot, start, count);
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
        submission.copy(kv.keys(layer), page * half, this.#buffers.keys, at, half);
      } else {
        rows.stored.readPart(block, layer, part, 0);
        kernels.device.queue.writeBuffer(this.#buffers.keys, at, part, 0, half);
        kv.traffic.came += half;
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
    const { passes } = this.#buffers;
    const half = partBytes / 2;
    const firstBlock = Math.floor(start / BLOCK_ROWS);
    if (start % BLOCK_ROWS !== 0) {
      // Rows of this block that were made before.
      const at = tails[layer]! * half;
      submission.copy(kv.keys(layer), at, this.#buffers.keys, 0, half);
      submission.copy(kv.values(layer), at, this.#buffers.values, 0, half);
    }
    forward.attention.encodeRope(submission.pass, layer, count, 0, this.#buffers.ropes[layer]!);
    store(submission);
    const onDevice = firstBlock > 0 && allMapped(rows, layer, firstBlock);
    const merges = observe === null ? this.#merges : this.#observed!;
    this.#pass(submission, passes.own, count, merges, true, firstBlock === 0);
    if (onDevice) {
      submission.submit();
      this.#buffers.attendUpTo(count, slot, firstBlock * BLOCK_ROWS - 1);
      this.#pass(submission, passes.slab[layer]!, count, merges, false, true);
    } else {
      await this.#stream(submission, layer, chunk, firstBlock, (block, blocks) => {
        this.#buffers.attendUpTo(count, 0, blocks * BLOCK_ROWS - 1);
        const last = block + blocks === firstBlock;
        this.#pass(submission, passes.staged, count, merges, false, last);
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
        submission.copy(this.#buffers.keys, at, kv.keys(layer), page * half, half);
        submission.copy(this.#buffers.values, at, kv.values(layer), page * half, half);
      }
      if (block >= whole) continue;
      const to = { stored: rows.stored, block, layer, numRows: BLOCK_ROWS };
      await reader.add(submission, to, this.#buffers.keys, this.#buffers.values, at);
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

  [Symbol.dispose](): void {
    this.#buffers[Symbol.dispose]();
  }
}

function allMapped(rows: OffloadedRows, layer: number, blocks: number): boolean {
  for (let block = 0; block < blocks; block++) {
    if (rows.pageOf(layer, block) === NO_PAGE) return false;
  }
  return true;
}
