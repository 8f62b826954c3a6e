/**
 * Steps of sequences that lie below the device: chosen rows are fetched before the layer that needs
 * them, and what has no room passes through. Made when the first such sequence begins.
 *
 * @module
 */
import type { ParkedLists } from "../../butler/parked_lists.ts";
import type { KeyTransit } from "../../butler/scorers/types.ts";
import type { Selector } from "../../butler/selector.ts";
import { BlockReader, READ_BYTES, wholeBlocks } from "../../kv/block_reader.ts";
import { type OffloadedRows, requireOffloaded } from "../../kv/offloaded.ts";
import { RowFetcher } from "../../kv/row_fetcher.ts";
import { BLOCK_ROWS, NO_PAGE } from "../../kv/slab_pool.ts";
import type { TieredCache } from "../../kv/tiered_cache.ts";
import { FetchAhead } from "./ahead.ts";
import { ChosenLists } from "./chosen_lists.ts";
import { ListFetch } from "./list_fetch.ts";
import type { Forward } from "../forward.ts";
import type { SelectedAttention } from "../selected_attention.ts";
import { type StagedChunk, StagedPrefill } from "./staged_prefill.ts";
import { isEmpty, StagePasses, type Streamed } from "./stage_passes.ts";
import { type Moved, type OffloadedRow, RowPlacement } from "./row_placement.ts";
import { RowWaits, type WaitSums } from "./row_waits.ts";
import { StagedKeys } from "./staged_keys.ts";
import type { Submission } from "../submission.ts";
import { Transit } from "./transit.ts";

/** What {@linkcode OffloadSteps} is made of. */
export interface OffloadOptions {
  readonly forward: Forward;
  readonly attention: SelectedAttention;
  readonly cache: TieredCache;
  readonly maxPrefill: number;
  /** Where the step's uniform gives the splits of a full stage. */
  readonly stageOffset: number;
  /** Gets what decode steps waited for rows. */
  readonly totals: WaitSums;
  readonly readback?: "sync" | "awaited";
}

/** Moves rows for decode steps and prefill chunks. */
export class OffloadSteps {
  readonly prefill: StagedPrefill;
  readonly transit: KeyTransit;
  readonly passes: StagePasses;
  readonly keys: StagedKeys;
  readonly ahead: FetchAhead;
  readonly #options: OffloadOptions;
  readonly #stage: Transit;
  readonly #reader: BlockReader;
  readonly #fetcher: RowFetcher;
  readonly #placement: RowPlacement;
  readonly #chosen: ChosenLists;
  readonly #lists: ListFetch;
  readonly #waits: RowWaits;
  readonly #failures = new Map<number, unknown>();

  private constructor(
    options: OffloadOptions,
    transit: Transit,
    reader: BlockReader,
    fetcher: RowFetcher,
    prefill: StagedPrefill,
  ) {
    const { forward, attention, cache, stageOffset } = options;
    const { kernels, config } = forward.options;
    const waits = new RowWaits(options.totals);
    this.#options = options;
    this.#waits = waits;
    this.ahead = new FetchAhead(kernels.device, config.numLayers, options.readback);
    this.#stage = transit;
    this.#reader = reader;
    this.#fetcher = fetcher;
    this.prefill = prefill;
    this.transit = {
      chunk: { keys: prefill.keys, table: prefill.viewTable },
      stage: { keys: transit.stage.keys, table: transit.view },
    };
    this.passes = new StagePasses({
      forward: forward.options,
      qkv: forward.activations.qkv,
      attention,
      transit,
      waits,
      partBytes: cache.store.partBytes,
      stepOffset: stageOffset,
    });
    this.keys = new StagedKeys({ forward, cache, transit, waits, passes: this.passes });
    this.#chosen = new ChosenLists(kernels.device, options.readback);
    this.#placement = new RowPlacement({ forward, cache, fetcher });
    this.#lists = new ListFetch({
      chosen: this.#chosen,
      ahead: this.ahead,
      placement: this.#placement,
      fetcher,
      transit,
      waits,
      onFailure: (slot, error) => this.fail(slot, error),
    });
  }

  static async create(options: OffloadOptions): Promise<OffloadSteps> {
    const { forward, cache, maxPrefill, readback } = options;
    const { kernels, config, kv, kvType, plan } = forward.options;
    const { partBytes } = cache.store;
    const transit = await Transit.create(kernels, kv, partBytes, readback);
    const reader = await BlockReader.create(kernels, kv, partBytes, READ_BYTES, readback);
    const fetcher = await RowFetcher.create({
      kernels,
      kv,
      numLayers: config.numLayers,
      numKvHeads: config.numKvHeads,
      headDim: config.headDim,
      kvType,
      lanes: plan.rowLanes,
    });
    const prefill = await StagedPrefill.create({ forward, maxPrefill, transit, reader, partBytes });
    return new OffloadSteps(options, transit, reader, fetcher, prefill);
  }

  /** Splits of a full stage, for the step's uniform. */
  get stageSplits(): number {
    return this.passes.splits;
  }

  /** Forgets a slot. */
  end(slot: number): void {
    this.#placement.end(slot);
    this.#failures.delete(slot);
    this.ahead.end(slot);
  }

  /** What the newest step of a slot moved. */
  moved(slot: number): Moved {
    return this.#placement.moved(slot);
  }

  /** Why a slot's newest step cannot be trusted; undefined if it can. */
  failure(slot: number): unknown {
    return this.#failures.get(slot);
  }

  /**
   * A row's newest step cannot be trusted; those beside it can. Rows that were to come to its slots
   * may not have come.
   */
  fail(slot: number, error: unknown): void {
    if (!this.#failures.has(slot)) this.#failures.set(slot, error);
    this.#rowsOf(slot).forgetSlots();
  }

  /** A prefill chunk of a slot below the device. */
  beginChunk(slot: number, rows: OffloadedRows, start: number, count: number): StagedChunk {
    this.#drop();
    const tail = Math.floor(start / BLOCK_ROWS);
    const tails = rows.sets.map((_, layer) =>
      start % BLOCK_ROWS === 0 ? NO_PAGE : rows.pageOf(layer, tail)
    );
    rows.extend(start + count);
    const chunk = { slot, rows, start, count, tails };
    this.prefill.prepare(chunk);
    return chunk;
  }

  /** Before a decode step is planned: makes room for the newest rows. */
  beginDecode(rows: readonly OffloadedRow[]): void {
    this.#drop();
    this.#waits.begin();
    for (const { slot, n } of rows) {
      this.#rowsOf(slot).extend(n);
      this.#placement.begin(slot);
      this.#failures.delete(slot);
    }
  }

  /**
   * Before attention in a layer: chosen rows are on their way, headers say what the slabs have.
   *
   * @returns By row of `rows`: what passes through beside that.
   */
  async prepareLayer(
    submission: Submission,
    layer: number,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): Promise<readonly Streamed[]> {
    await this.#lists.prepareLayer(submission, layer, rows, selector);
    return rows.map((row) => this.#placement.layerStream(layer, row, selector));
  }

  /** Encodes what passes through in a layer; the last pass completes every row's attention. */
  async encodeStreams(
    submission: Submission,
    layer: number,
    numRows: number,
    rows: readonly OffloadedRow[],
    streams: readonly Streamed[],
  ): Promise<void> {
    const left = rows.map((row, index) => ({ ...row, streamed: streams[index]! }))
      .filter(({ streamed }) => !isEmpty(streamed));
    for (const [index, { row, slot, streamed }] of left.entries()) {
      const { stored } = this.#rowsOf(slot);
      const last = index === left.length - 1;
      try {
        const place = { first: false, last };
        await this.#placement.sending(
          slot,
          () => this.passes.encode(submission, layer, row, numRows, stored, streamed, place),
        );
      } catch (error) {
        // The row's result means nothing; the others' must still be completed.
        this.fail(slot, error);
        if (last) this.passes.complete(submission, numRows);
      }
    }
  }

  /**
   * Counts what rows gave to what passes through in a layer, which passes through again; after the
   * attention of the layer.
   */
  async encodeMass(
    submission: Submission,
    layer: number,
    numRows: number,
    rows: readonly OffloadedRow[],
    streams: readonly Streamed[],
    selector: Selector,
  ): Promise<void> {
    for (const [index, row] of rows.entries()) {
      const { slot } = row;
      const streamed = streams[index]!;
      if (isEmpty(streamed) || !selector.decode.accumulates(slot, layer)) continue;
      if (this.#failures.has(slot)) continue;
      const { stored } = this.#rowsOf(slot);
      try {
        await this.#placement.sending(
          slot,
          () => this.passes.encodeMass(submission, layer, row, numRows, stored, streamed),
        );
      } catch (error) {
        this.fail(slot, error);
      }
    }
  }

  /** Before the last submission of a decode step: copies what {@linkcode endDecode} reads. */
  async encodeEnd(
    submission: Submission,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): Promise<void> {
    await this.#encodeWhole(submission, rows);
    await this.ahead.encodeRead(submission, rows, selector);
  }

  /**
   * After the last submission of a decode step, before its end is waited for: fetches what the step
   * before chose. The device sees rows and lists after this step, so the next one uses them.
   */
  fetchAhead(submission: Submission, rows: readonly OffloadedRow[], selector: Selector): void {
    const hasFailed = (slot: number) => this.#failures.has(slot);
    this.#lists.fetchAhead(submission, rows, selector, hasFailed);
  }

  /** Copies blocks that this step made whole; {@linkcode endDecode} stores them. */
  async #encodeWhole(submission: Submission, rows: readonly OffloadedRow[]): Promise<void> {
    const { forward, cache } = this.#options;
    const { kv, config } = forward.options;
    const half = cache.store.partBytes / 2;
    for (const { slot, n } of rows) {
      if (n % BLOCK_ROWS !== 0) continue;
      const block = wholeBlocks(n) - 1;
      const { stored } = this.#rowsOf(slot);
      for (let layer = 0; layer < config.numLayers; layer++) {
        const at = kv.pool.pageOf(layer, slot, block) * half;
        const to = { stored, block, layer, numRows: BLOCK_ROWS };
        await this.#reader.add(submission, to, kv.keys(layer), kv.values(layer), at);
      }
    }
  }

  /**
   * After a decode step: whole blocks are in the store, or their sequences have failed. What was
   * chosen for later is known.
   */
  async endDecode(
    submission: Submission,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): Promise<void> {
    await this.ahead.settle(rows, selector);
    const failures = await this.#reader.flush(submission);
    for (const { slot } of rows) {
      const failure = failures.get(this.#rowsOf(slot).stored);
      if (failure !== undefined) this.fail(slot, failure);
    }
    this.#stage.arrived();
  }

  /**
   * Exact scores of a row's candidates, whose keys pass through. A row whose keys cannot be read has
   * failed.
   *
   * @returns Bytes that were sent.
   */
  async scoreStaged(
    submission: Submission,
    layer: number,
    numRows: number,
    { slot }: OffloadedRow,
    selector: Selector,
    stepOffset: number,
  ): Promise<number> {
    const staged = selector.decode.stagedScorer(slot, layer);
    if (staged === null) return 0;
    submission.submit();
    selector.decode.limitRecipes(layer, "exact", slot);
    const { scorer, end } = staged;
    try {
      return await this.keys.scoreKeys(submission, layer, numRows, slot, end, scorer, stepOffset);
    } catch (error) {
      this.fail(slot, error);
      return 0;
    }
  }

  /**
   * Brings the rows of lists that were parked back, for a slot that has `n` rows.
   *
   * @returns Bytes that were sent.
   * @throws {StoreReadError} If a row cannot be read.
   */
  placeLists(
    submission: Submission,
    slot: number,
    n: number,
    lists: ParkedLists,
    selector: Selector,
  ): number {
    this.#drop();
    return this.#lists.placeParked(submission, slot, n, lists, selector);
  }

  /** What a step left that was given up belongs to nobody. */
  #drop(): void {
    this.#lists.drop();
    this.#reader.drop();
  }

  #rowsOf(slot: number): OffloadedRows {
    return requireOffloaded(this.#options.cache, slot);
  }

  [Symbol.dispose](): void {
    this.prefill[Symbol.dispose]();
    this.passes[Symbol.dispose]();
    this.#reader[Symbol.dispose]();
    this.#fetcher[Symbol.dispose]();
    this.#chosen[Symbol.dispose]();
    this.ahead[Symbol.dispose]();
    this.#stage[Symbol.dispose]();
  }
}
