/**
 * The part of a step that depends on how the cache of each sequence is kept: what is written beside
 * the rows, what is selected, which kernels attend. Made when the first sequence needs it; without
 * it every row attends to everything.
 *
 * @module
 */
import type { Calibration } from "../butler/calibration/file.ts";
import type { Predictor } from "../butler/predictor/predictor.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import type { LayerWork } from "../butler/decode_selection.ts";
import { Selector } from "../butler/selector.ts";
import type { ParkedSelection } from "../butler/slot_selection.ts";
import { type ParkedLists, readLists } from "../butler/parked_lists.ts";
import type { SelectorRow } from "../butler/row_tables.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import type { KvReport } from "../butler/settings_types.ts";
import {
  addMoved,
  countStep,
  isMeasured,
  type MovedTotals,
  newTally,
  reportOf,
  type Tally,
} from "./tally.ts";
import { POLICIES } from "../butler/policies/mod.ts";
import type { SequenceNeed } from "../kv/types.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { AheadLists } from "./offload/ahead.ts";
import type { Forward } from "./forward.ts";
import { OffloadSteps } from "./offload/offload_steps.ts";
import type { OffloadedRow } from "./offload/row_placement.ts";
import { RecallMeter, type SampledRow } from "./recall_meter.ts";
import type { ObserveKeys, StagedChunk } from "./offload/staged_prefill.ts";
import { isEmpty } from "./offload/stage_passes.ts";
import {
  type BoundAttention,
  ONLY_PASS,
  SelectedAttention,
  slabPlace,
} from "./selected_attention.ts";
import { ObservedAttention } from "./observed_attention.ts";
import type { SelectionObserver } from "./observer.ts";
import { STEP_SLOTS, stepStrideOf } from "./step_slots.ts";
import type { Submission } from "./submission.ts";

/** What {@linkcode CacheSteps} is made of. */
export interface CacheStepsOptions {
  readonly forward: Forward;
  readonly cache: TieredCache;
  readonly maxPrefill: number;
  readonly calibration: Calibration | null;
  readonly predictor: Predictor | null;
  readonly importanceKeys: ImportanceKeys;
  /** Gets what decode steps did, of all sequences. */
  readonly totals: MovedTotals;
  readonly readback?: "sync" | "awaited";
}

/** A decode step in which some row does not simply attend to everything. */
export interface DecodePlan {
  readonly layers: readonly LayerWork[];
  readonly numRows: number;
  /** For the step's uniform. */
  readonly denseSplits: number;
  readonly rowsSplits: number;
  /** Of the longest row, should it attend to everything. */
  readonly allSplits: number;
  readonly stageSplits: number;
  readonly storeCounts: readonly number[];
  /** Rows of sequences below the device. */
  readonly offloaded: readonly OffloadedRow[];
  /** Rows whose recall is measured in this step. */
  readonly sampled: readonly SampledRow[];
}

/** What is known of a sequence without a slot. */
export interface ParkedSteps extends Disposable {
  readonly selection: ParkedSelection;
  readonly tally: Tally;
  readonly lists: ParkedLists;
  /** Null where rows are not fetched ahead, or nothing is under way. */
  readonly ahead: AheadLists | null;
}

/** Selection and attention over it. */
export class CacheSteps {
  readonly #options: CacheStepsOptions;
  readonly #attention: SelectedAttention;
  readonly #selector: Selector;
  readonly #tallies = new Map<number, Tally>();
  readonly #stride: number;
  #offload: OffloadSteps | null = null;
  #recall: RecallMeter | null = null;
  #observed: ObservedAttention | null = null;
  #bound: BoundAttention[] = [];

  private constructor(options: CacheStepsOptions, attention: SelectedAttention) {
    const { forward, maxPrefill, calibration, predictor, importanceKeys, cache } = options;
    const { kernels } = forward.options;
    this.#options = options;
    this.#attention = attention;
    const stride = stepStrideOf(kernels.caps);
    this.#stride = stride;
    this.#selector = new Selector({
      ...forward.options,
      qkv: forward.activations.qkv,
      x: forward.activations.x,
      maxPrefill,
      calibration,
      predictor,
      importanceKeys,
      storeOffset: (kind) => (STEP_SLOTS.store + kind) * stride,
      onRebind: () => this.#unbind(),
      spansOf: (slot, layer) => cache.offloaded(slot)?.spans(layer) ?? null,
    });
  }

  /** Compiles the kernels that every policy needs. */
  static async create(options: CacheStepsOptions): Promise<CacheSteps> {
    const attention = await SelectedAttention.create(
      options.forward.options,
      options.forward.activations,
    );
    return new CacheSteps(options, attention);
  }

  /** Lists of selected rows. */
  get selection(): SelectionBuffers {
    return this.#selector.buffers;
  }

  /** Takes a sequence in that does not simply attend to everything. */
  async begin(slot: number, { settings, maxRows }: SequenceNeed): Promise<void> {
    const { cache, forward, maxPrefill, readback } = this.#options;
    const below = cache.offloaded(slot) !== null;
    const { store, scores } = POLICIES[settings.policy];
    const { lse, importance } = this.#selector;
    if (store === "mass" && !below) {
      this.#observed ??= await ObservedAttention.create(forward, maxPrefill, lse);
    }
    if (below) {
      this.#offload ??= await OffloadSteps.create({
        forward,
        attention: this.#attention,
        cache,
        maxPrefill,
        stageOffset: STEP_SLOTS.stage * this.#stride,
        ...(readback === undefined ? {} : { readback }),
      });
    }
    if (store === "mass" && below) await this.#offload!.prefill.prepareObserved(lse);
    if (scores === "mass" && below) await this.#offload!.passes.prepareMass(importance);
    const transit = below ? this.#offload!.transit : null;
    await this.#selector.begin(slot, settings, maxRows, transit);
    if (settings.recallEvery > 0) {
      this.#recall ??= await RecallMeter.create({
        forward,
        selector: this.#selector,
        ...(readback === undefined ? {} : { readback }),
      });
      await this.#recall.prepare();
    }
    this.#tallies.set(slot, newTally(settings));
  }

  /** Shows the sequence of a slot in another one too; it has `numRows` rows. */
  alias(slot: number, source: number, numRows: number): void {
    this.#selector.alias(slot, source, numRows);
  }

  /** Takes a sequence out of its slot; null for one that attends to everything on the device. */
  async park(slot: number, submission: Submission): Promise<ParkedSteps | null> {
    const view = this.#selector.view(slot);
    const tally = this.#tallies.get(slot);
    if (view === undefined || tally === undefined) return null;
    const { kernels, config } = this.#options.forward.options;
    const wanted = Array.from(
      { length: config.numLayers },
      (_, layer) => view.layer(layer).kind === "selected",
    );
    const { readback } = this.#options;
    const buffers = this.#selector.buffers;
    // What was picked last may not be in use yet.
    const ahead = this.#offload?.ahead.park(slot) ?? null;
    const lists = ahead?.used ??
      await readLists(kernels.device, submission, buffers, slot, wanted, readback);
    const selection = this.#selector.park(slot)!;
    this.end(slot);
    return { selection, tally, lists, ahead, [Symbol.dispose]: () => selection[Symbol.dispose]() };
  }

  /**
   * Goes on with a sequence in a slot that has just begun.
   *
   * @param sent Bytes of its rows that were sent for that. They count as those of its steps; before
   *   its first one they belong to the prefill.
   */
  resume(
    slot: number,
    numRows: number,
    { selection, tally, lists, ahead }: ParkedSteps,
    sent: number,
    submission: Submission,
  ): void {
    this.#selector.resume(slot, selection, lists);
    this.#tallies.set(slot, tally);
    if (this.#options.cache.offloaded(slot) === null) this.#selector.writeLists(slot, lists);
    else sent += this.#offload!.placeLists(submission, slot, numRows, lists, this.#selector);
    if (tally.steps > 0) {
      tally.bytes += sent;
      this.#options.totals.bytes += sent;
    }
    if (ahead !== null) this.#offload!.ahead.resume(slot, ahead);
    submission.submit();
  }

  /** Forgets a slot. */
  end(slot: number): void {
    this.#selector.end(slot);
    this.#offload?.end(slot);
    this.#tallies.delete(slot);
  }

  /** What was done for a slot so far; null for one that attends to everything. */
  report(slot: number): KvReport | null {
    const tally = this.#tallies.get(slot);
    if (tally === undefined) return null;
    const grows = this.#selector.view(slot)?.growth.some((growth) => growth > 1) ?? false;
    return reportOf(tally, this.#options.cache.tiersOf(slot), grows);
  }

  /** Before a prefill chunk: whether its rows need something written beside them. */
  preparePrefill(slot: number, first: number, count: number, total: number): boolean {
    return this.#selector.prefill.prepare(slot, first, count, total);
  }

  /** Rows whose importance is written in this step, by scorer. */
  get storeCounts(): readonly number[] {
    return this.#selector.resources.tables.storeCounts;
  }

  /** After a chunk's rows were written in a layer. */
  encodePrefill(submission: Submission, slot: number, layer: number): void {
    this.#selector.prefill.encode(submission.pass, slot, layer, "cache");
  }

  /** Whether a slot can take rows over: what is kept beside them follows from their keys alone. */
  canReuse(slot: number): boolean {
    return this.#selector.view(slot)?.policy.store !== "mass";
  }

  /** Writes what is kept of rows first .. first + count - 1, which are in the tiers, in a layer. */
  encodeAdopted(
    submission: Submission,
    slot: number,
    layer: number,
    first: number,
    count: number,
  ): void {
    const rows = this.#options.cache.offloaded(slot);
    if (rows === null) return this.encodePrefill(submission, slot, layer);
    const chunk = { slot, rows, start: first, count, tails: [] };
    this.#offload!.prefill.loadKeys(submission, layer, chunk);
    this.#selector.prefill.encode(submission.pass, slot, layer, "chunk");
  }

  /**
   * Attention of a chunk in a layer where what it attends to is counted.
   *
   * @returns Whether it is one; nothing was done otherwise.
   */
  encodeObserved(submission: Submission, slot: number, layer: number, numRows: number): boolean {
    if (!this.#selector.prefill.observes(slot, layer)) return false;
    this.#observed!.encode(submission.pass, layer, numRows);
    this.#selector.prefill.encodeObserved(submission.pass, slot, layer);
    return true;
  }

  /** A chunk of a sequence below the device; null for any other. */
  beginChunk(slot: number, start: number, count: number): StagedChunk | null {
    const rows = this.#options.cache.offloaded(slot);
    return rows === null ? null : this.#offload!.beginChunk(slot, rows, start, count);
  }

  /**
   * Rotation and attention of such a chunk in a layer.
   *
   * @param stores Whether something is written beside its rows.
   */
  async encodeChunk(
    submission: Submission,
    layer: number,
    chunk: StagedChunk,
    stores: boolean,
  ): Promise<void> {
    const { slot } = chunk;
    const store = ({ pass }: Submission) => {
      if (stores) this.#selector.prefill.encode(pass, slot, layer, "chunk");
    };
    const observe: ObserveKeys = ({ pass }, keys) =>
      this.#selector.prefill.observeKeys(pass, slot, layer, keys);
    const observes = stores && this.#selector.prefill.observes(slot, layer);
    const { prefill } = this.#offload!;
    await prefill.encodeLayer(submission, layer, chunk, store, observes ? observe : null);
  }

  /** After a layer of such a chunk. */
  async finishChunkLayer(submission: Submission, layer: number, chunk: StagedChunk): Promise<void> {
    await this.#offload!.prefill.finishLayer(submission, layer, chunk);
  }

  /** After all layers of such a chunk: its whole blocks are below the device. */
  async finishChunk(submission: Submission): Promise<void> {
    await this.#offload!.prefill.finish(submission);
  }

  /** Decides what a decode step does; null if every row attends to everything. */
  planDecode(rows: readonly SelectorRow[]): DecodePlan | null {
    if (!rows.some(({ slot }) => this.#selector.view(slot) !== undefined)) return null;
    const offloaded = rows.map(({ slot, position }, row) => ({ row, slot, n: position + 1 }))
      .filter(({ slot }) => this.#options.cache.offloaded(slot) !== null);
    if (offloaded.length > 0) this.#offload!.beginDecode(offloaded);
    const layers = this.#selector.decode.prepare(rows);
    for (const { slot, position } of rows) {
      const view = this.#selector.view(slot);
      const tally = this.#tallies.get(slot);
      if (tally !== undefined && view !== undefined) countStep(tally, view, position + 1);
    }
    const { attentionSplit } = this.#options.forward.options.plan;
    const most = (pick: (layer: LayerWork) => number) =>
      layers.reduce((sum, layer) => Math.max(sum, pick(layer)), 0);
    const splits = (keys: number) => Math.max(1, Math.ceil(keys / attentionSplit));
    return {
      layers,
      numRows: rows.length,
      denseSplits: splits(most((layer) => layer.denseKeys)),
      rowsSplits: splits(most((layer) => layer.rowsKeys)),
      allSplits: splits(rows.reduce((longest, row) => Math.max(longest, row.position + 1), 0)),
      stageSplits: this.#offload?.stageSplits ?? 1,
      storeCounts: [...this.#selector.resources.tables.storeCounts],
      offloaded,
      sampled: rows.map(({ slot, position }, row) => ({
        row,
        slot,
        n: position + 1,
        below: this.#options.cache.offloaded(slot) !== null,
      })).filter(({ slot }) => isMeasured(this.#tallies.get(slot))),
    };
  }

  /** Selects, and attends, in a layer of a decode step. */
  async encodeDecode(
    submission: Submission,
    layer: number,
    plan: DecodePlan,
    observer: SelectionObserver | null = null,
  ): Promise<void> {
    const { layers, numRows, offloaded } = plan;
    const work = layers[layer]!;
    const offset = STEP_SLOTS.layers * this.#stride;
    const staged = offloaded.filter(({ slot }) =>
      this.#selector.decode.stagedScorer(slot, layer) !== null
    );
    if (staged.length > 0) this.#selector.decode.limitRecipes(layer, "exact", null);
    this.#selector.decode.encode(submission.pass, layer, numRows, layers, offset);
    if (observer !== null) {
      if (offloaded.length > 0) throw new Error("selections below the device cannot be observed");
      observer.selected(submission, layer, numRows);
      const { attention } = this.#options.forward;
      const all = STEP_SLOTS.all * this.#stride;
      attention.encodeAll(submission.pass, "decode", layer, numRows, plan.allSplits, all);
      return;
    }
    for (const row of staged) {
      this.#tallies.get(row.slot)!.scoring += await this.#offload!.scoreStaged(
        submission,
        layer,
        numRows,
        row,
        this.#selector,
        offset,
      );
    }
    const streams = offloaded.length === 0
      ? []
      : await this.#offload!.prepareLayer(submission, layer, offloaded, this.#selector);
    const passing = streams.some((streamed) => !isEmpty(streamed));
    const { sampled } = plan;
    if (sampled.length > 0) {
      await this.#recall!.encodeExact(
        submission,
        layer,
        numRows,
        sampled,
        plan.allSplits,
        STEP_SLOTS.all * this.#stride,
        this.#offload,
      );
    }
    this.#layer(layer).encode(submission.pass, numRows, {
      dense: work.dense ? { splits: plan.denseSplits, stepOffset: offset } : null,
      rows: work.rows
        ? { splits: plan.rowsSplits, stepOffset: STEP_SLOTS.selected * this.#stride }
        : null,
      // Measuring needs the sums that a single pass does not leave.
      place: passing || sampled.length > 0
        ? { first: true, last: !passing }
        : work.mass
        ? ONLY_PASS
        : null,
    });
    if (passing) {
      await this.#offload!.encodeStreams(submission, layer, numRows, offloaded, streams);
    }
    if (sampled.length > 0) this.#recall!.encodeAttended(submission, layer, sampled);
    if (work.mass) {
      this.#encodeMass(submission, layer, plan);
      const selector = this.#selector;
      if (passing) {
        await this.#offload!.encodeMass(submission, layer, numRows, offloaded, streams, selector);
      }
    }
  }

  #encodeMass(submission: Submission, layer: number, plan: DecodePlan): void {
    const { dense, rows } = plan.layers[layer]!;
    const denseSplits = dense ? plan.denseSplits : 0;
    const rowsSplits = rows ? plan.rowsSplits : 0;
    const place = denseSplits >= rowsSplits ? STEP_SLOTS.layers : STEP_SLOTS.selected;
    this.#selector.decode.encodeAttended(
      submission.pass,
      layer,
      plan.numRows,
      Math.max(denseSplits, rowsSplits),
      place * this.#stride,
    );
  }

  /** After the last layer of a decode step, before its last submission. */
  async encodeEnd(submission: Submission, { offloaded }: DecodePlan): Promise<void> {
    if (offloaded.length > 0) {
      await this.#offload!.encodeEnd(submission, offloaded, this.#selector);
    }
  }

  /** After the last submission of a decode step: what can be done while the device computes. */
  meanwhile(submission: Submission, { offloaded }: DecodePlan): void {
    if (offloaded.length > 0) this.#offload!.fetchAhead(submission, offloaded, this.#selector);
  }

  /**
   * When a decode step is done.
   *
   * @returns By slot: why its row's result cannot be trusted.
   */
  async endDecode(
    submission: Submission,
    { offloaded, sampled }: DecodePlan,
  ): Promise<ReadonlyMap<number, unknown>> {
    const failures = new Map<number, unknown>();
    if (sampled.length > 0) {
      const sumsOf = (slot: number) => this.#tallies.get(slot)!.recall;
      const usedOf = (slot: number, layer: number) =>
        this.#offload?.ahead.used(slot, layer) ?? null;
      await this.#recall!.finish(submission, sampled, sumsOf, usedOf);
      this.#options.totals.recallSteps += sampled.length;
    }
    if (offloaded.length === 0) return failures;
    await this.#offload!.endDecode(submission, offloaded, this.#selector);
    for (const { slot } of offloaded) {
      const tally = this.#tallies.get(slot);
      const moved = this.#offload!.moved(slot);
      if (tally !== undefined) addMoved(tally, moved);
      addMoved(this.#options.totals, moved);
      const failure = this.#offload!.failure(slot);
      if (failure !== undefined) failures.set(slot, failure);
    }
    return failures;
  }

  #layer(layer: number): BoundAttention {
    let bound = this.#bound[layer];
    if (bound === undefined) {
      const { forward } = this.#options;
      bound = this.#attention.bind(slabPlace(forward.options, this.#selector.buffers, layer));
      this.#bound[layer] = bound;
    }
    return bound;
  }

  #unbind(): void {
    this.#offload?.passes.unbindMass();
    for (const bound of this.#bound) bound?.[Symbol.dispose]();
    this.#bound = [];
  }

  [Symbol.dispose](): void {
    this.#unbind();
    this.#recall?.[Symbol.dispose]();
    this.#offload?.[Symbol.dispose]();
    this.#observed?.[Symbol.dispose]();
    this.#selector[Symbol.dispose]();
    this.#attention[Symbol.dispose]();
  }
}
