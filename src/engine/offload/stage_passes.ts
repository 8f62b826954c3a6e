/**
 * Decode attention over rows that only pass through the device: whole blocks, or chosen rows that
 * have no slot.
 *
 * @module
 */
import type { ImportanceStore } from "../../butler/importance_store.ts";
import { ROW_KEEPS } from "../../gpu/ops/list_params.ts";
import { NO_ROWS, selectionHeader, selectionStride, SLIDING } from "../../gpu/ops/selection.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import type { StoredSequence } from "../../kv/store/types.ts";
import type { ForwardOptions } from "../forward_parts.ts";
import type { BoundAttention, PassPlace, SelectedAttention } from "../selected_attention.ts";
import { StageMass } from "./stage_mass.ts";
import type { Submission } from "../submission.ts";
import type { RowWaits } from "./row_waits.ts";
import type { Transit } from "./transit.ts";

/** What one row of a step attends to beside the slabs, in a layer. */
export interface Streamed {
  /** Blocks from .. to - 1 of which rows first .. end - 1 count. */
  readonly first: number;
  readonly end: number;
  /** By KV head: ascending positions beside those. */
  readonly lists: readonly Uint32Array[];
}

/** Whether there is nothing in it. */
export function isEmpty({ first, end, lists }: Streamed): boolean {
  return first >= end && lists.every((list) => list.length === 0);
}

/** What {@linkcode StagePasses} is made of. */
export interface StagePassesOptions {
  readonly forward: ForwardOptions;
  readonly qkv: GPUBuffer;
  readonly attention: SelectedAttention;
  readonly transit: Transit;
  readonly waits: RowWaits;
  /** Keys and values of a block of one layer. */
  readonly partBytes: number;
  /** Where the step's uniform gives the splits of a full stage. */
  readonly stepOffset: number;
}

/** One filling of the stage: its blocks, and by KV head how many of its rows count and which they are. */
interface StagePass {
  readonly blocks: number;
  readonly counts: readonly number[];
  readonly positions: readonly Uint32Array<ArrayBuffer>[];
}

/** Two slots of the stage's selection: the row of a pass, and all others, which have nothing there. */
const SLOTS = { target: 0, others: 1 } as const;

/** Encodes passes over the stage. */
export class StagePasses {
  readonly #options: StagePassesOptions;
  readonly #rows: GPUBuffer;
  readonly #selection: GPUBuffer;
  readonly #bound: BoundAttention;
  readonly #capacity: number;
  readonly #selectionStride: number;
  #mass: StageMass | null = null;
  readonly #header: Uint32Array<ArrayBuffer>;
  /** What the lists of the stage's selection hold: device rows from 0 on. */
  readonly splits: number;

  constructor(options: StagePassesOptions) {
    const { forward, attention, transit: { stage } } = options;
    const { kernels, config, maxSequences, plan } = forward;
    const { numKvHeads } = config;
    this.#options = options;
    this.#capacity = stage.capacity * BLOCK_ROWS;
    this.splits = Math.ceil(this.#capacity / plan.attentionSplit);
    const stride = selectionStride(numKvHeads, this.#capacity);
    this.#selectionStride = stride;
    this.#rows = kernels.storage("stage rows", maxSequences * 16);
    this.#selection = kernels.storage("stage selection", 2 * stride * 4);
    this.#header = new Uint32Array(selectionHeader(numKvHeads));
    const words = new Uint32Array(2 * stride);
    for (let slot = 0; slot < 2; slot++) words.set([1, 0, SLIDING, 0], slot * stride);
    for (let head = 0; head < numKvHeads; head++) {
      const at = selectionHeader(numKvHeads) + head * this.#capacity;
      for (let i = 0; i < this.#capacity; i++) words[at + i] = stage.rowOf(i);
    }
    kernels.device.queue.writeBuffer(this.#selection, 0, words);
    this.#bound = attention.bind({
      keys: stage.keys,
      values: stage.values,
      table: stage.table,
      maxPages: stage.capacity,
      rows: this.#rows,
      selection: this.#selection,
      listCapacity: this.#capacity,
      selectionStride: stride,
    });
  }

  /**
   * Attends, for one row of a step, to what passes through.
   *
   * @param place Whether something came before for the row, and whether something follows for any.
   * @throws {StoreReadError} If a row cannot be read.
   */
  async encode(
    submission: Submission,
    layer: number,
    row: number,
    numRows: number,
    stored: StoredSequence,
    streamed: Streamed,
    { first, last }: PassPlace,
  ): Promise<void> {
    const passes = this.#passes(stored, layer, streamed);
    await this.#run(submission, passes, ({ counts }, index) => {
      this.#target(row, numRows, counts);
      const place = {
        first: first && index === 0,
        last: last && index === passes.length - 1,
      };
      this.#bound.encode(submission.pass, numRows, {
        dense: null,
        rows: { splits: this.splits, stepOffset: this.#options.stepOffset },
        place,
      });
    });
  }

  /** Makes {@linkcode encodeMass} possible. */
  async prepareMass(importance: ImportanceStore): Promise<void> {
    const { forward, qkv, transit: { stage } } = this.#options;
    this.#mass ??= await StageMass.create({
      forward,
      qkv,
      importance,
      stage,
      rows: this.#rows,
      selection: this.#selection,
      selectionStride: this.#selectionStride,
    });
  }

  /** The layers of the importance store are other buffers from now on. */
  unbindMass(): void {
    this.#mass?.unbind();
  }

  /**
   * Lets the same pass through again and adds what one row of the step gave them; after the attention
   * of the layer, which has left the sums of the row's weights.
   *
   * @throws {StoreReadError} If a row cannot be read.
   */
  async encodeMass(
    submission: Submission,
    layer: number,
    { row, slot }: { readonly row: number; readonly slot: number },
    numRows: number,
    stored: StoredSequence,
    streamed: Streamed,
  ): Promise<void> {
    const mass = this.#mass!;
    mass.view(submission, slot);
    const passes = this.#passes(stored, layer, streamed);
    await this.#run(submission, passes, ({ counts, positions }) => {
      this.#target(row, numRows, counts, ROW_KEEPS.listedMass);
      mass.writePositions(positions);
      mass.encode(submission.pass, layer, numRows, this.splits, this.#options.stepOffset);
    });
  }

  #passes(
    stored: StoredSequence,
    layer: number,
    streamed: Streamed,
  ): readonly (() => StagePass)[] {
    return [
      ...this.#blockPasses(stored, layer, streamed),
      ...this.#listPasses(stored, layer, streamed),
    ];
  }

  /** Fills the stage again and again. */
  async #run(
    submission: Submission,
    passes: readonly (() => StagePass)[],
    encode: (pass: StagePass, index: number) => void,
  ): Promise<void> {
    const { transit, partBytes, waits } = this.#options;
    const { stage } = transit;
    for (const [index, fill] of passes.entries()) {
      submission.submit();
      const pass = waits.during(() => {
        const pass = fill();
        stage.upload(pass.blocks);
        return pass;
      });
      await transit.throttle(pass.blocks * partBytes);
      encode(pass, index);
    }
  }

  /** Attends, for one row, to the first `count` rows of the stage, which the caller has filled. */
  encodeLoaded(
    submission: Submission,
    row: number,
    numRows: number,
    count: number,
    place: PassPlace,
  ): void {
    const { numKvHeads } = this.#options.forward.config;
    this.#target(row, numRows, new Array<number>(numKvHeads).fill(count));
    this.#bound.encode(submission.pass, numRows, {
      dense: null,
      rows: { splits: this.splits, stepOffset: this.#options.stepOffset },
      place,
    });
  }

  /** Ends the passes of a step whose last one could not be made. */
  complete(submission: Submission, numRows: number): void {
    const { numKvHeads } = this.#options.forward.config;
    submission.submit();
    this.#target(-1, numRows, new Array<number>(numKvHeads).fill(0));
    this.#bound.encode(submission.pass, numRows, {
      dense: null,
      rows: { splits: 1, stepOffset: this.#options.stepOffset },
      place: { first: false, last: true },
    });
  }

  /** Each fills the stage and says how much of it counts. */
  #blockPasses(
    stored: StoredSequence,
    layer: number,
    { first, end }: Streamed,
  ): (() => StagePass)[] {
    const { transit: { stage }, forward } = this.#options;
    const { numKvHeads } = forward.config;
    const passes: (() => StagePass)[] = [];
    // The first block may begin before the rows that count: those are streamed as a list.
    for (let at = first; at < end;) {
      const block = Math.floor(at / BLOCK_ROWS);
      const blocks = Math.min(stage.capacity, Math.ceil(end / BLOCK_ROWS) - block);
      const until = Math.min(end, (block + blocks) * BLOCK_ROWS);
      const count = until - block * BLOCK_ROWS;
      passes.push(() => {
        stored.readParts(block, blocks, layer, stage.bytes, 0);
        const rows = Uint32Array.from({ length: count }, (_, i) => block * BLOCK_ROWS + i);
        return {
          blocks,
          counts: new Array<number>(numKvHeads).fill(count),
          positions: new Array<Uint32Array<ArrayBuffer>>(numKvHeads).fill(rows),
        };
      });
      at = until;
    }
    return passes;
  }

  #listPasses(
    stored: StoredSequence,
    layer: number,
    { lists }: Streamed,
  ): (() => StagePass)[] {
    const longest = lists.reduce((most, list) => Math.max(most, list.length), 0);
    const passes: (() => StagePass)[] = [];
    for (let from = 0; from < longest; from += this.#capacity) {
      passes.push(() => {
        const counts = lists.map((list) =>
          Math.max(0, Math.min(this.#capacity, list.length - from))
        );
        counts.forEach((count, head) => {
          if (count > 0) this.#gather(stored, layer, head, lists[head]!, from, count);
        });
        const positions = counts.map((count, head) => lists[head]!.slice(from, from + count));
        return { blocks: Math.ceil(Math.max(...counts) / BLOCK_ROWS), counts, positions };
      });
    }
    return passes;
  }

  /** Puts rows of one KV head where the stage's pages have them. */
  #gather(
    stored: StoredSequence,
    layer: number,
    head: number,
    positions: Uint32Array,
    from: number,
    count: number,
  ): void {
    const { transit: { stage }, partBytes, forward: { config } } = this.#options;
    const half = partBytes / 2;
    const rowBytes = half / config.numKvHeads / BLOCK_ROWS;
    const packed = new Uint8Array(count * rowBytes * 2);
    stored.gather(layer, head, positions, from, count, packed, 0);
    for (let i = 0; i < count; i++) {
      const cell = (head * BLOCK_ROWS + i % BLOCK_ROWS) * rowBytes;
      const at = Math.floor(i / BLOCK_ROWS) * partBytes + cell;
      const row = packed.subarray(i * rowBytes * 2, (i + 1) * rowBytes * 2);
      stage.bytes.set(row.subarray(0, rowBytes), at);
      stage.bytes.set(row.subarray(rowBytes), at + half);
    }
  }

  #target(row: number, numRows: number, counts: readonly number[], keeps = 0): void {
    const { queue } = this.#options.forward.kernels.device;
    this.#header.set([1, 0, SLIDING, 0, ...counts]);
    queue.writeBuffer(this.#selection, 0, this.#header);
    const words = new Uint32Array(numRows * 4);
    for (let other = 0; other < numRows; other++) {
      const slot = other === row ? SLOTS.target : SLOTS.others;
      words.set([0, slot, NO_ROWS, other === row ? keeps : 0], other * 4);
    }
    queue.writeBuffer(this.#rows, 0, words);
  }

  [Symbol.dispose](): void {
    this.#bound[Symbol.dispose]();
    this.#mass?.[Symbol.dispose]();
    this.#rows.destroy();
    this.#selection.destroy();
  }
}
