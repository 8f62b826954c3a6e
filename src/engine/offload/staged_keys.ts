/**
 * Exact scores, and exact attention to everything, of sequences below the device: all their rows pass
 * through.
 *
 * @module
 */
import type { Scorer } from "../../butler/scorers/types.ts";
import { wholeBlocks } from "../../kv/block_reader.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import { type OffloadedRows, requireOffloaded } from "../../kv/offloaded.ts";
import type { TieredCache } from "../../kv/tiered_cache.ts";
import type { Forward } from "../forward.ts";
import type { OffloadedRow } from "./row_placement.ts";
import type { RowWaits } from "./row_waits.ts";
import type { StagePasses } from "./stage_passes.ts";
import type { Submission } from "../submission.ts";
import type { Transit } from "./transit.ts";

/** What {@linkcode StagedKeys} is made of. */
export interface StagedKeysOptions {
  readonly forward: Forward;
  readonly cache: TieredCache;
  readonly transit: Transit;
  readonly passes: StagePasses;
  readonly waits: RowWaits;
}

/** Passes over all rows. */
export class StagedKeys {
  readonly #options: StagedKeysOptions;

  constructor(options: StagedKeysOptions) {
    this.#options = options;
  }

  /**
   * Exact attention of a row over all rows of its sequence, which pass through: leaves its lse.
   *
   * @throws {StoreReadError} If a row cannot be read.
   */
  async attendAll(
    submission: Submission,
    layer: number,
    numRows: number,
    { row, slot, n }: OffloadedRow,
  ): Promise<void> {
    const { forward, cache, transit: { stage }, passes } = this.#options;
    const { kv } = forward.options;
    const offloaded = this.#rowsOf(slot);
    const whole = Math.min(offloaded.stored.numBlocks, wholeBlocks(n));
    const tail = n - whole * BLOCK_ROWS;
    const streamed = { first: 0, end: whole * BLOCK_ROWS, lists: [] };
    await passes.encode(submission, layer, row, numRows, offloaded.stored, streamed, {
      first: true,
      last: tail === 0,
    });
    if (tail === 0) return;
    // Rows of a block that is not whole are on the device alone.
    submission.submit();
    const half = cache.store.partBytes / 2;
    const at = offloaded.pageOf(layer, whole) * half;
    submission.copy(kv.keys(layer), at, stage.buffer, 0, half);
    submission.copy(kv.values(layer), at, stage.buffer, half, half);
    const place = { first: whole === 0, last: true };
    passes.encodeLoaded(submission, row, numRows, tail, place);
  }

  /**
   * Scores the candidates of a slot below `end` by their keys, which pass through, and selects. Its
   * recipe must be the only one that counts.
   *
   * @returns Bytes that were sent.
   * @throws {StoreReadError} If a key cannot be read.
   */
  async scoreKeys(
    submission: Submission,
    layer: number,
    numRows: number,
    slot: number,
    end: number,
    scorer: Scorer,
    stepOffset: number,
  ): Promise<number> {
    const { cache, transit, waits } = this.#options;
    const { stage } = transit;
    const { stored } = this.#rowsOf(slot);
    const { partBytes } = cache.store;
    let bytes = 0;
    // Candidates in a block that is not whole yet are on the device alone.
    const whole = Math.min(stored.numBlocks, Math.ceil(end / BLOCK_ROWS));
    for (let block = 0; block < whole; block += stage.capacity) {
      const blocks = Math.min(stage.capacity, whole - block);
      submission.submit();
      waits.during(() => {
        stored.readParts(block, blocks, layer, stage.bytes, 0);
        stage.upload(blocks);
      });
      bytes += blocks * partBytes;
      await transit.throttle(blocks * partBytes);
      transit.show(slot, block, blocks);
      const first = block * BLOCK_ROWS;
      const count = blocks * BLOCK_ROWS;
      scorer.scoreStaged!(submission.pass, layer, numRows, first, count, stepOffset);
    }
    if (whole * BLOCK_ROWS < end) {
      this.#scoreTail(submission, layer, numRows, slot, whole, scorer, stepOffset);
    }
    scorer.encodeChoice(submission.pass, layer, numRows, stepOffset);
    return bytes;
  }

  /** The same for the unfinished block, whose page is copied to the stage. */
  #scoreTail(
    submission: Submission,
    layer: number,
    numRows: number,
    slot: number,
    block: number,
    scorer: Scorer,
    stepOffset: number,
  ): void {
    const { forward, cache, transit } = this.#options;
    const { kv } = forward.options;
    const half = cache.store.partBytes / 2;
    submission.submit();
    const page = this.#rowsOf(slot).pageOf(layer, block);
    submission.copy(kv.keys(layer), page * half, transit.stage.buffer, 0, half);
    transit.show(slot, block, 1);
    scorer.scoreStaged!(
      submission.pass,
      layer,
      numRows,
      block * BLOCK_ROWS,
      BLOCK_ROWS,
      stepOffset,
    );
  }

  #rowsOf(slot: number): OffloadedRows {
    return requireOffloaded(this.#options.cache, slot);
  }
}
