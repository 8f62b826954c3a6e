/**
 * Steps of sequences that lie below the device: chosen rows are fetched before the layer that needs
 * them, and what has no room passes through. Made when the first such sequence begins.
 *
 * @module
 */
import {
  copyLists,
  type HeadLists,
  listBytes,
  type ParkedLists,
  parseLists,
} from "../butler/parked_lists.ts";
import type { KeyTransit, Scorer } from "../butler/scorers.ts";
import type { Selector } from "../butler/selector.ts";
import { stepsKept } from "../butler/settings.ts";
import type { SelectedView } from "../butler/slots.ts";
import { Readback } from "../gpu/readback.ts";
import { selectionHeader, SLIDING } from "../gpu/ops/selection.ts";
import { BlockReader, READ_BYTES, wholeBlocks } from "../kv/block_reader.ts";
import { type HeadPlan, planHead, stableBlocks } from "../kv/fetch/fetch_plan.ts";
import type { OffloadedRows } from "../kv/offloaded.ts";
import { RowFetcher } from "../kv/row_fetcher.ts";
import { BLOCK_ROWS, NO_PAGE } from "../kv/slab_pool.ts";
import { Stage, stageBlocks } from "../kv/stage.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import { FetchAhead } from "./ahead.ts";
import type { Forward } from "./forward.ts";
import type { SelectedAttention } from "./selected_attention.ts";
import { type StagedChunk, StagedPrefill } from "./staged_prefill.ts";
import { isEmpty, StagePasses, type Streamed } from "./stage_passes.ts";
import type { Submission } from "./submission.ts";

/** What {@linkcode OffloadSteps} is made of. */
export interface OffloadOptions {
  readonly forward: Forward;
  readonly attention: SelectedAttention;
  readonly cache: TieredCache;
  readonly maxPrefill: number;
  /** Where the step's uniform gives the splits of a full stage. */
  readonly stageOffset: number;
  readonly readback?: "sync" | "awaited";
}

/** A row of a decode step whose sequence lies below the device. */
export interface OffloadedRow {
  /** Index in the step. */
  readonly row: number;
  readonly slot: number;
  /** Rows, the newest included. */
  readonly n: number;
}

/** What a row's step moved. */
export interface Moved {
  /** Bytes of keys and values that were sent to the device. */
  bytes: number;
  /** Rows of lists that were wanted, and those of them that were there. */
  wanted: number;
  resident: number;
}

/** Uploads that may wait for the device: they pile up in host memory. */
const MOST_PENDING = 128 * 2 ** 20;

/** What the parts call that are made before the whole. */
interface LateCalls {
  throttle: (bytes: number) => Promise<void>;
  viewStage: (slot: number, first: number, count: number) => void;
}

const NOTHING: Streamed = { first: 0, end: 0, lists: [] };

/** Moves rows for decode steps and prefill chunks. */
export class OffloadSteps {
  readonly prefill: StagedPrefill;
  readonly transit: KeyTransit;
  readonly stage: Stage;
  readonly passes: StagePasses;
  readonly ahead: FetchAhead;
  readonly #options: OffloadOptions;
  readonly #reader: BlockReader;
  readonly #fetcher: RowFetcher;
  readonly #idle: Readback;
  readonly #stageView: GPUBuffer;
  #picks: Readback | null = null;
  /** By slot and layer: what passes through until the next selection. */
  readonly #streams = new Map<number, Streamed[]>();
  /** By slot and layer: the header that was written last. */
  readonly #headers = new Map<number, string[]>();
  readonly #moved = new Map<number, Moved>();
  readonly #failures = new Map<number, unknown>();
  #pending = 0;

  private constructor(
    options: OffloadOptions,
    parts: {
      stage: Stage;
      reader: BlockReader;
      fetcher: RowFetcher;
      idle: Readback;
    },
    prefill: StagedPrefill,
    late: LateCalls,
  ) {
    const { forward, attention, cache } = options;
    const { kernels, kv, config } = forward.options;
    this.#options = options;
    this.ahead = new FetchAhead(kernels.device, config.numLayers, options.readback);
    this.stage = parts.stage;
    this.#reader = parts.reader;
    this.#fetcher = parts.fetcher;
    this.#idle = parts.idle;
    this.prefill = prefill;
    late.throttle = (bytes) => this.#throttle(bytes);
    late.viewStage = (slot, first, count) => this.#viewStage(slot, first, count);
    this.#stageView = kernels.storage("stage view", kv.numSlots * kv.maxPages * 4);
    this.transit = {
      chunk: { keys: prefill.keys, table: prefill.viewTable },
      stage: { keys: parts.stage.keys, table: this.#stageView },
    };
    this.passes = new StagePasses({
      forward: forward.options,
      qkv: forward.activations.qkv,
      attention,
      stage: parts.stage,
      partBytes: cache.store.partBytes,
      stepOffset: options.stageOffset,
      throttle: (bytes) => this.#throttle(bytes),
    });
  }

  static async create(options: OffloadOptions): Promise<OffloadSteps> {
    const { forward, cache, maxPrefill, readback } = options;
    const { kernels, config, kv, kvType, plan } = forward.options;
    const { partBytes } = cache.store;
    const stage = new Stage(kernels, partBytes, stageBlocks(partBytes, kv.maxPages));
    const reader = await BlockReader.create(kernels, partBytes, READ_BYTES, readback);
    const late: LateCalls = { throttle: () => Promise.resolve(), viewStage: () => {} };
    const fetcher = await RowFetcher.create({
      kernels,
      kv,
      numLayers: config.numLayers,
      numKvHeads: config.numKvHeads,
      headDim: config.headDim,
      kvType,
      lanes: plan.rowLanes,
    });
    const idle = await Readback.create(kernels.device, 16, readback);
    const prefill = await StagedPrefill.create({
      forward,
      maxPrefill,
      stage,
      reader,
      partBytes,
      throttle: (bytes) => late.throttle(bytes),
      viewStage: (slot, first, count) => late.viewStage(slot, first, count),
    });
    return new OffloadSteps(options, { stage, reader, fetcher, idle }, prefill, late);
  }

  /** Splits of a full stage, for the step's uniform. */
  get stageSplits(): number {
    return this.passes.splits;
  }

  /** Forgets a slot. */
  end(slot: number): void {
    this.#streams.delete(slot);
    this.#headers.delete(slot);
    this.#moved.delete(slot);
    this.#failures.delete(slot);
    this.ahead.end(slot);
  }

  /** What the newest step of a slot moved. */
  moved(slot: number): Moved {
    return this.#moved.get(slot) ?? { bytes: 0, wanted: 0, resident: 0 };
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
    for (const { slot, n } of rows) {
      this.#rowsOf(slot).extend(n);
      this.#moved.set(slot, { bytes: 0, wanted: 0, resident: 0 });
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
    const fresh = rows.filter(({ slot }) => {
      const view = selector.view(slot)?.layer(layer);
      return view?.kind === "selected" && view.fresh;
    });
    if (fresh.length > 0) await this.#fetch(submission, layer, fresh, selector);
    this.#placeAgain(submission, layer, rows, selector);
    return rows.map((row) => this.#layerStream(layer, row, selector));
  }

  /**
   * Lists of a selection that is made once outlive the pages of the window: whenever a block gives way,
   * what lay in it needs a slot.
   */
  #placeAgain(
    submission: Submission,
    layer: number,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): void {
    for (const row of rows) {
      const { slot, n } = row;
      const view = selector.view(slot)!;
      if (!view.policy.once || n % BLOCK_ROWS !== 1) continue;
      const used = view.layer(layer);
      const lists = this.ahead.used(slot, layer);
      if (lists === null || used.kind !== "selected" || used.fresh) continue;
      try {
        this.#placeUsed(submission, layer, row, lists, selector);
      } catch (error) {
        this.fail(slot, error);
      }
    }
    this.#fetcher.send(submission);
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
        this.#moved.get(slot)!.bytes += await this.passes.encode(
          submission,
          layer,
          row,
          numRows,
          stored,
          streamed,
          { first: false, last },
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
      if (isEmpty(streamed) || !selector.accumulates(slot, layer)) continue;
      if (this.#failures.has(slot)) continue;
      const { stored } = this.#rowsOf(slot);
      try {
        this.#moved.get(slot)!.bytes += await this.passes.encodeMass(
          submission,
          layer,
          row,
          numRows,
          stored,
          streamed,
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
    this.ahead.place(rows, (layer, row, { view, lists }) => {
      const { slot } = row;
      if (this.#failures.has(slot)) return;
      // The newest row is one step younger than the choice.
      const steps = stepsKept(selector.view(slot)!.settings) - 1;
      try {
        this.#place(submission, layer, row, lists, view, steps, selector);
      } catch (error) {
        this.fail(slot, error);
      }
    });
    this.#fetcher.send(submission);
    submission.submit();
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
    this.#pending = 0;
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
    const staged = selector.stagedScorer(slot, layer);
    if (staged === null) return 0;
    submission.submit();
    selector.limitRecipes(layer, "exact", slot);
    const { scorer, end } = staged;
    try {
      return await this.scoreKeys(submission, layer, numRows, slot, end, scorer, stepOffset);
    } catch (error) {
      this.fail(slot, error);
      return 0;
    }
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
    const { forward, cache } = this.#options;
    const { kv } = forward.options;
    const offloaded = this.#rowsOf(slot);
    const whole = Math.min(offloaded.stored.numBlocks, wholeBlocks(n));
    const tail = n - whole * BLOCK_ROWS;
    const streamed = { first: 0, end: whole * BLOCK_ROWS, lists: [] };
    await this.passes.encode(submission, layer, row, numRows, offloaded.stored, streamed, {
      first: true,
      last: tail === 0,
    });
    if (tail === 0) return;
    // Rows of a block that is not whole are on the device alone.
    submission.submit();
    const half = cache.store.partBytes / 2;
    const at = offloaded.pageOf(layer, whole) * half;
    submission.copy(kv.keys(layer), at, this.stage.buffer, 0, half);
    submission.copy(kv.values(layer), at, this.stage.buffer, half, half);
    const place = { first: whole === 0, last: true };
    this.passes.encodeLoaded(submission, row, numRows, tail, place);
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
    const { cache } = this.#options;
    const { stored } = this.#rowsOf(slot);
    const { partBytes } = cache.store;
    let bytes = 0;
    // Candidates in a block that is not whole yet are on the device alone.
    const whole = Math.min(stored.numBlocks, Math.ceil(end / BLOCK_ROWS));
    for (let block = 0; block < whole; block += this.stage.capacity) {
      const blocks = Math.min(this.stage.capacity, whole - block);
      submission.submit();
      stored.readParts(block, blocks, layer, this.stage.bytes, 0);
      this.stage.upload(blocks);
      bytes += blocks * partBytes;
      await this.#throttle(blocks * partBytes);
      this.#viewStage(slot, block, blocks);
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
    const { forward, cache } = this.#options;
    const { kv } = forward.options;
    const half = cache.store.partBytes / 2;
    submission.submit();
    const page = this.#rowsOf(slot).pageOf(layer, block);
    submission.copy(kv.keys(layer), page * half, this.stage.buffer, 0, half);
    this.#viewStage(slot, block, 1);
    scorer.scoreStaged!(
      submission.pass,
      layer,
      numRows,
      block * BLOCK_ROWS,
      BLOCK_ROWS,
      stepOffset,
    );
  }

  /** Reads the lists of fresh selections, and fetches what the device lacks of them. */
  async #fetch(
    submission: Submission,
    layer: number,
    rows: readonly OffloadedRow[],
    selector: Selector,
  ): Promise<void> {
    const { buffers } = selector;
    const stride = listBytes(buffers);
    const readback = await this.#picksReadback(rows.length * stride);
    rows.forEach(({ slot }, index) =>
      copyLists(submission, buffers, layer, slot, readback.target, index * stride)
    );
    submission.submit();
    const words = new Uint32Array((await readback.read(rows.length * stride)).slice().buffer);
    this.#pending = 0;
    rows.forEach((row, index) => {
      const own = words.slice(index * stride / 4, (index + 1) * stride / 4);
      const lists = parseLists(buffers, own);
      const view = selector.view(row.slot)!;
      try {
        this.#placeUsed(submission, layer, row, lists, selector);
        if (view.ahead || view.policy.once) this.ahead.begin(row.slot, layer, lists);
      } catch (error) {
        this.fail(row.slot, error);
      }
    });
    this.#fetcher.send(submission);
  }

  /**
   * Brings the rows of lists that were parked back, for a slot that has `n` rows.
   *
   * @throws {StoreReadError} If a row cannot be read.
   */
  placeLists(
    submission: Submission,
    slot: number,
    n: number,
    lists: ParkedLists,
    selector: Selector,
  ): void {
    this.#drop();
    this.#moved.set(slot, { bytes: 0, wanted: 0, resident: 0 });
    lists.forEach((heads, layer) => {
      if (heads !== null) {
        this.#placeUsed(submission, layer, { row: 0, slot, n }, heads, selector);
      }
    });
    this.#fetcher.send(submission);
  }

  /** Brings the rows of lists that are used from now on. */
  #placeUsed(
    submission: Submission,
    layer: number,
    row: OffloadedRow,
    lists: HeadLists,
    selector: Selector,
  ): void {
    const view = selector.view(row.slot)!;
    const used = view.layer(layer);
    if (used.kind !== "selected") return;
    // What is chosen once is placed again before the next block gives way.
    const steps = view.policy.once ? 0 : stepsKept(view.settings);
    this.#place(submission, layer, row, lists, used, steps, selector);
  }

  /**
   * Sends what the device lacks of chosen rows on its way, and writes the lists.
   *
   * @param steps Steps after this one in which the rows may be attended to.
   */
  #place(
    submission: Submission,
    layer: number,
    { slot, n }: OffloadedRow,
    lists: HeadLists,
    { recipe }: SelectedView,
    steps: number,
    selector: Selector,
  ): void {
    const { numKvHeads } = this.#options.forward.options.config;
    const { buffers } = selector;
    const { listCapacity } = buffers.sizes;
    const offloaded = this.#rowsOf(slot);
    const moved = this.#moved.get(slot)!;
    const { policy, settings } = selector.view(slot)!;
    const stable = stableBlocks(offloaded, layer, n, steps);
    // A window that slides is on the device as a whole, and no list may hold rows of it.
    const windowStart = policy.once
      ? recipe.windowStart
      : Math.min(n, Math.max(recipe.windowStart, stable * BLOCK_ROWS));
    const plans: HeadPlan[] = [];
    for (let head = 0; head < numKvHeads; head++) {
      const wanted = { picked: lists[head]!, from: recipe.windowStart, windowStart };
      const plan = planHead(offloaded, layer, head, wanted, stable);
      plans.push(plan);
      const count = plan.list.length + plan.streamed.length;
      moved.wanted += count;
      moved.resident += count - plan.missing.length - plan.streamed.length;
      moved.bytes += plan.missing.length * this.#fetcher.rowBytes;
      this.#fetcher.add(
        submission,
        offloaded.stored,
        layer,
        head,
        plan.missing,
        plan.targets,
      );
    }
    const header = selectionHeader(numKvHeads);
    const out = new Uint32Array(header + numKvHeads * listCapacity);
    const window = policy.once ? [SLIDING, settings.window] : [windowStart, 0];
    out.set([1, recipe.prefix, ...window, ...plans.map(({ list }) => list.length)]);
    plans.forEach(({ list }, head) => out.set(list, header + head * listCapacity));
    // The lists are read by what is encoded from here on.
    submission.submit();
    buffers.writeSelection(layer, slot, out);
    if (selector.accumulates(slot, layer)) {
      buffers.writeListed(layer, slot, plans.map(({ positions }) => positions));
    }
    this.#setStream(slot, layer, { first: 0, end: 0, lists: plans.map((p) => p.streamed) });
  }

  /** What a layer of a row streams, and its header where that follows from what is on the device. */
  #layerStream(layer: number, { slot, n }: OffloadedRow, selector: Selector): Streamed {
    const view = selector.view(slot)!.layer(layer);
    if (view.kind === "selected") return this.#streams.get(slot)?.[layer] ?? NOTHING;
    const spans = this.#rowsOf(slot).spans(layer);
    if (view.kind === "all") {
      if (spans.prefix >= spans.windowStart) {
        this.#header(slot, layer, [0, 0, 0, 0], selector);
        return NOTHING;
      }
      this.#header(slot, layer, [1, spans.prefix, spans.windowStart, 0], selector);
      return { first: spans.prefix, end: spans.windowStart, lists: [] };
    }
    const from = Math.max(view.prefix, n - view.windowRows);
    const start = Math.max(from, spans.windowStart);
    this.#header(slot, layer, [1, view.prefix, start, 0], selector);
    if (from >= start) return NOTHING;
    // Whole blocks stream as blocks, the rows before them one by one.
    const first = Math.min(start, Math.ceil(from / BLOCK_ROWS) * BLOCK_ROWS);
    const head = Uint32Array.from({ length: first - from }, (_, i) => from + i);
    const { numKvHeads } = this.#options.forward.options.config;
    return { first, end: start, lists: new Array<Uint32Array>(numKvHeads).fill(head) };
  }

  #header(slot: number, layer: number, words: readonly number[], selector: Selector): void {
    const { numKvHeads, numLayers } = this.#options.forward.options.config;
    let headers = this.#headers.get(slot);
    if (headers === undefined) this.#headers.set(slot, headers = new Array(numLayers).fill(""));
    const key = words.join();
    if (headers[layer] === key) return;
    headers[layer] = key;
    const out = new Uint32Array(selectionHeader(numKvHeads));
    out.set(words);
    selector.buffers.writeSelection(layer, slot, out);
  }

  #setStream(slot: number, layer: number, streamed: Streamed): void {
    const { numLayers } = this.#options.forward.options.config;
    let streams = this.#streams.get(slot);
    if (streams === undefined) {
      this.#streams.set(slot, streams = new Array<Streamed>(numLayers).fill(NOTHING));
    }
    streams[layer] = streamed;
  }

  /** Blocks first .. first + count - 1 of a slot are on the stage now, from its beginning on. */
  #viewStage(slot: number, first: number, count: number): void {
    const { kernels, kv } = this.#options.forward.options;
    const pages = Uint32Array.from({ length: count }, (_, i) => 2 * i);
    kernels.device.queue.writeBuffer(this.#stageView, (slot * kv.maxPages + first) * 4, pages);
  }

  /** What a step left that was given up belongs to nobody. */
  #drop(): void {
    this.#reader.drop();
    this.#fetcher.drop();
  }

  #rowsOf(slot: number): OffloadedRows {
    const rows = this.#options.cache.offloaded(slot);
    if (rows === null) throw new Error(`slot ${slot} lies on the device as a whole`);
    return rows;
  }

  async #picksReadback(bytes: number): Promise<Readback> {
    if (this.#picks === null || this.#picks.size < bytes) {
      this.#picks?.[Symbol.dispose]();
      const { device } = this.#options.forward.options.kernels;
      this.#picks = await Readback.create(device, bytes, this.#options.readback);
    }
    return this.#picks;
  }

  /** Waits for the device when much is on its way: what waits takes host memory. */
  async #throttle(bytes: number): Promise<void> {
    this.#pending += bytes;
    if (this.#pending < MOST_PENDING) return;
    this.#pending = 0;
    await this.#idle.copyAndRead(this.#stageView, 0, 16);
  }

  [Symbol.dispose](): void {
    this.prefill[Symbol.dispose]();
    this.passes[Symbol.dispose]();
    this.#reader[Symbol.dispose]();
    this.#fetcher[Symbol.dispose]();
    this.#picks?.[Symbol.dispose]();
    this.ahead[Symbol.dispose]();
    this.#idle[Symbol.dispose]();
    this.#stageView.destroy();
    this.stage[Symbol.dispose]();
  }
}
