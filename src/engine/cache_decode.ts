/** A decode step in which some row does not simply attend to everything. @module */
import type { LayerWork } from "../butler/decode_selection.ts";
import type { SelectorRow } from "../butler/row_tables.ts";
import type { CacheParts } from "./cache_parts.ts";
import type { SelectionObserver } from "./observer.ts";
import type { OffloadedRow } from "./offload/row_placement.ts";
import { isEmpty } from "./offload/stage_passes.ts";
import type { SampledRow } from "./recall_meter.ts";
import { type BoundAttention, ONLY_PASS, slabPlace } from "./selected_attention.ts";
import { STEP_SLOTS } from "./step_slots.ts";
import type { Submission } from "./submission.ts";
import { addMoved, countStep, isMeasured } from "./tally.ts";

/** What a decode step does. */
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

/** Selection and attention over it. */
export class CacheDecode {
  readonly #parts: CacheParts;
  /** By layer. */
  #bound: BoundAttention[] = [];

  constructor(parts: CacheParts) {
    this.#parts = parts;
  }

  /** Decides what a decode step does; null if every row attends to everything. */
  plan(rows: readonly SelectorRow[]): DecodePlan | null {
    if (!rows.some(({ slot }) => this.#parts.selector.view(slot) !== undefined)) return null;
    const offloaded = rows.map(({ slot, position }, row) => ({ row, slot, n: position + 1 }))
      .filter(({ slot }) => this.#parts.options.cache.offloaded(slot) !== null);
    if (offloaded.length > 0) this.#parts.offload!.beginDecode(offloaded);
    const layers = this.#parts.selector.decode.prepare(rows);
    for (const { slot, position } of rows) {
      const view = this.#parts.selector.view(slot);
      const tally = this.#parts.tallies.get(slot);
      if (tally !== undefined && view !== undefined) countStep(tally, view, position + 1);
    }
    const { attentionSplit } = this.#parts.options.forward.options.plan;
    const most = (pick: (layer: LayerWork) => number) =>
      layers.reduce((sum, layer) => Math.max(sum, pick(layer)), 0);
    const splits = (keys: number) => Math.max(1, Math.ceil(keys / attentionSplit));
    return {
      layers,
      numRows: rows.length,
      denseSplits: splits(most((layer) => layer.denseKeys)),
      rowsSplits: splits(most((layer) => layer.rowsKeys)),
      allSplits: splits(rows.reduce((longest, row) => Math.max(longest, row.position + 1), 0)),
      stageSplits: this.#parts.offload?.stageSplits ?? 1,
      storeCounts: [...this.#parts.selector.resources.tables.storeCounts],
      offloaded,
      sampled: rows.map(({ slot, position }, row) => ({
        row,
        slot,
        n: position + 1,
        below: this.#parts.options.cache.offloaded(slot) !== null,
      })).filter(({ slot }) => isMeasured(this.#parts.tallies.get(slot))),
    };
  }

  /** Selects, and attends, in a layer of a decode step. */
  async encode(
    submission: Submission,
    layer: number,
    plan: DecodePlan,
    observer: SelectionObserver | null = null,
  ): Promise<void> {
    const { layers, numRows, offloaded } = plan;
    const work = layers[layer]!;
    const offset = STEP_SLOTS.layers * this.#parts.stride;
    const staged = offloaded.filter(({ slot }) =>
      this.#parts.selector.decode.stagedScorer(slot, layer) !== null
    );
    if (staged.length > 0) this.#parts.selector.decode.limitRecipes(layer, "exact", null);
    this.#parts.selector.decode.encode(submission.pass, layer, numRows, layers, offset);
    if (observer !== null) {
      if (offloaded.length > 0) throw new Error("selections below the device cannot be observed");
      observer.selected(submission, layer, numRows);
      const { attention } = this.#parts.options.forward;
      const all = STEP_SLOTS.all * this.#parts.stride;
      attention.encodeAll(submission.pass, "decode", layer, numRows, plan.allSplits, all);
      return;
    }
    for (const row of staged) {
      this.#parts.tallies.get(row.slot)!.scoring += await this.#parts.offload!.scoreStaged(
        submission,
        layer,
        numRows,
        row,
        this.#parts.selector,
        offset,
      );
    }
    const streams = offloaded.length === 0
      ? []
      : await this.#parts.offload!.prepareLayer(submission, layer, offloaded, this.#parts.selector);
    const passing = streams.some((streamed) => !isEmpty(streamed));
    const { sampled } = plan;
    if (sampled.length > 0) {
      await this.#parts.recall!.encodeExact(
        submission,
        layer,
        numRows,
        sampled,
        plan.allSplits,
        STEP_SLOTS.all * this.#parts.stride,
        this.#parts.offload,
      );
    }
    this.#layer(layer).encode(submission.pass, numRows, {
      dense: work.dense ? { splits: plan.denseSplits, stepOffset: offset } : null,
      rows: work.rows
        ? { splits: plan.rowsSplits, stepOffset: STEP_SLOTS.selected * this.#parts.stride }
        : null,
      // Measuring needs the sums that a single pass does not leave.
      place: passing || sampled.length > 0
        ? { first: true, last: !passing }
        : work.mass
        ? ONLY_PASS
        : null,
    });
    if (passing) {
      await this.#parts.offload!.encodeStreams(submission, layer, numRows, offloaded, streams);
    }
    if (sampled.length > 0) this.#parts.recall!.encodeAttended(submission, layer, sampled);
    if (work.mass) {
      this.#encodeMass(submission, layer, plan);
      const selector = this.#parts.selector;
      if (passing) {
        await this.#parts.offload!.encodeMass(
          submission,
          layer,
          numRows,
          offloaded,
          streams,
          selector,
        );
      }
    }
  }

  #encodeMass(submission: Submission, layer: number, plan: DecodePlan): void {
    const { dense, rows } = plan.layers[layer]!;
    const denseSplits = dense ? plan.denseSplits : 0;
    const rowsSplits = rows ? plan.rowsSplits : 0;
    const place = denseSplits >= rowsSplits ? STEP_SLOTS.layers : STEP_SLOTS.selected;
    this.#parts.selector.decode.encodeAttended(
      submission.pass,
      layer,
      plan.numRows,
      Math.max(denseSplits, rowsSplits),
      place * this.#parts.stride,
    );
  }

  /** After the last layer of a decode step, before its last submission. */
  async encodeEnd(submission: Submission, { offloaded }: DecodePlan): Promise<void> {
    if (offloaded.length > 0) {
      await this.#parts.offload!.encodeEnd(submission, offloaded, this.#parts.selector);
    }
  }

  /** After the last submission of a decode step: what can be done while the device computes. */
  meanwhile(submission: Submission, { offloaded }: DecodePlan): void {
    if (offloaded.length > 0) {
      this.#parts.offload!.fetchAhead(submission, offloaded, this.#parts.selector);
    }
  }

  /**
   * When a decode step is done.
   *
   * @returns By slot: why its row's result cannot be trusted.
   */
  async end(
    submission: Submission,
    { offloaded, sampled }: DecodePlan,
  ): Promise<ReadonlyMap<number, unknown>> {
    const failures = new Map<number, unknown>();
    if (sampled.length > 0) {
      const sumsOf = (slot: number) => this.#parts.tallies.get(slot)!.recall;
      const usedOf = (slot: number, layer: number) =>
        this.#parts.offload?.ahead.used(slot, layer) ?? null;
      await this.#parts.recall!.finish(submission, sampled, sumsOf, usedOf);
      this.#parts.options.totals.recallSteps += sampled.length;
    }
    if (offloaded.length === 0) return failures;
    await this.#parts.offload!.endDecode(submission, offloaded, this.#parts.selector);
    for (const { slot } of offloaded) {
      const failure = this.#parts.offload!.failure(slot);
      if (failure !== undefined) failures.set(slot, failure);
    }
    return failures;
  }

  /** Adds up what a step that was planned has moved, whatever became of it. */
  count({ offloaded }: DecodePlan): void {
    for (const { slot } of offloaded) {
      const tally = this.#parts.tallies.get(slot);
      const moved = this.#parts.offload!.moved(slot);
      if (tally !== undefined) addMoved(tally, moved);
      addMoved(this.#parts.options.totals, moved);
    }
  }

  #layer(layer: number): BoundAttention {
    let bound = this.#bound[layer];
    if (bound === undefined) {
      const { forward } = this.#parts.options;
      bound = this.#parts.attention.bind(
        slabPlace(forward.options, this.#parts.selector.buffers, layer),
      );
      this.#bound[layer] = bound;
    }
    return bound;
  }

  /** Lets go of bindings: buffers that they hold are gone. */
  unbind(): void {
    this.#parts.offload?.passes.unbindMass();
    for (const bound of this.#bound) bound?.[Symbol.dispose]();
    this.#bound = [];
  }
}
