/**
 * The part of a step that depends on how the cache of each sequence is kept: what is written beside
 * the rows, what is selected, which kernels attend. Made when the first sequence needs it; without
 * it every row attends to everything.
 *
 * @module
 */
import { type ParkedLists, readLists } from "../butler/parked_lists.ts";
import { POLICIES } from "../butler/policies/mod.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import { Selector } from "../butler/selector.ts";
import type { KvReport } from "../butler/settings_types.ts";
import type { ParkedSelection } from "../butler/slot_selection.ts";
import type { SequenceNeed } from "../kv/types.ts";
import { CacheDecode } from "./cache_decode.ts";
import type { CacheParts, CacheStepsOptions } from "./cache_parts.ts";
import { CachePrefill } from "./cache_prefill.ts";
import { ObservedAttention } from "./observed_attention.ts";
import type { AheadLists } from "./offload/ahead.ts";
import { OffloadSteps } from "./offload/offload_steps.ts";
import { RecallMeter } from "./recall_meter.ts";
import { SelectedAttention } from "./selected_attention.ts";
import { STEP_SLOTS, stepStrideOf } from "./step_slots.ts";
import type { Submission } from "./submission.ts";
import { newTally, reportOf, type Tally } from "./tally.ts";

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
  /** What prefill does for such sequences. */
  readonly prefill: CachePrefill;
  /** What decode does. */
  readonly decode: CacheDecode;
  readonly #parts: CacheParts;

  private constructor(options: CacheStepsOptions, attention: SelectedAttention) {
    const { forward, maxPrefill, calibration, predictor, importanceKeys, cache } = options;
    const stride = stepStrideOf(forward.options.kernels.caps);
    const selector = new Selector({
      ...forward.options,
      qkv: forward.activations.qkv,
      x: forward.activations.x,
      maxPrefill,
      calibration,
      predictor,
      importanceKeys,
      storeOffset: (kind) => (STEP_SLOTS.store + kind) * stride,
      onRebind: () => this.decode.unbind(),
      spansOf: (slot, layer) => cache.offloaded(slot)?.spans(layer) ?? null,
    });
    this.#parts = {
      options,
      attention,
      selector,
      tallies: new Map(),
      stride,
      offload: null,
      recall: null,
      observed: null,
    };
    this.prefill = new CachePrefill(this.#parts);
    this.decode = new CacheDecode(this.#parts);
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
    return this.#parts.selector.buffers;
  }

  /** Takes a sequence in that does not simply attend to everything. */
  async begin(slot: number, { settings, maxRows }: SequenceNeed): Promise<void> {
    const { cache, forward, maxPrefill, readback } = this.#parts.options;
    const below = cache.offloaded(slot) !== null;
    const { store, scores } = POLICIES[settings.policy];
    const { lse, importance } = this.#parts.selector;
    if (store === "mass" && !below) {
      this.#parts.observed ??= await ObservedAttention.create(forward, maxPrefill, lse);
    }
    if (below) {
      this.#parts.offload ??= await OffloadSteps.create({
        forward,
        attention: this.#parts.attention,
        cache,
        maxPrefill,
        stageOffset: STEP_SLOTS.stage * this.#parts.stride,
        totals: this.#parts.options.totals,
        ...(readback === undefined ? {} : { readback }),
      });
    }
    if (store === "mass" && below) await this.#parts.offload!.prefill.prepareObserved(lse);
    if (scores === "mass" && below) await this.#parts.offload!.passes.prepareMass(importance);
    const transit = below ? this.#parts.offload!.transit : null;
    await this.#parts.selector.begin(slot, settings, maxRows, transit);
    if (settings.recallEvery > 0) {
      this.#parts.recall ??= await RecallMeter.create({
        forward,
        selector: this.#parts.selector,
        ...(readback === undefined ? {} : { readback }),
      });
      await this.#parts.recall.prepare();
    }
    this.#parts.tallies.set(slot, newTally(settings));
  }

  /** Shows the sequence of a slot in another one too; it has `numRows` rows. */
  alias(slot: number, source: number, numRows: number): void {
    this.#parts.selector.alias(slot, source, numRows);
  }

  /** Takes a sequence out of its slot; null for one that attends to everything on the device. */
  async park(slot: number, submission: Submission): Promise<ParkedSteps | null> {
    const view = this.#parts.selector.view(slot);
    const tally = this.#parts.tallies.get(slot);
    if (view === undefined || tally === undefined) return null;
    const { kernels, config } = this.#parts.options.forward.options;
    const wanted = Array.from(
      { length: config.numLayers },
      (_, layer) => view.layer(layer).kind === "selected",
    );
    const { readback } = this.#parts.options;
    const buffers = this.#parts.selector.buffers;
    // What was picked last may not be in use yet.
    const ahead = this.#parts.offload?.ahead.park(slot) ?? null;
    const lists = ahead?.used ??
      await readLists(kernels.device, submission, buffers, slot, wanted, readback);
    const selection = this.#parts.selector.park(slot)!;
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
    this.#parts.selector.resume(slot, selection, lists);
    this.#parts.tallies.set(slot, tally);
    if (this.#parts.options.cache.offloaded(slot) === null) {
      this.#parts.selector.writeLists(slot, lists);
    } else {sent += this.#parts.offload!.placeLists(
        submission,
        slot,
        numRows,
        lists,
        this.#parts.selector,
      );}
    if (tally.steps > 0) {
      tally.bytes += sent;
      this.#parts.options.totals.bytes += sent;
    }
    if (ahead !== null) this.#parts.offload!.ahead.resume(slot, ahead);
    submission.submit();
  }

  /** Forgets a slot. */
  end(slot: number): void {
    this.#parts.selector.end(slot);
    this.#parts.offload?.end(slot);
    this.#parts.tallies.delete(slot);
  }

  /** What was done for a slot so far; null for one that attends to everything. */
  report(slot: number): KvReport | null {
    const tally = this.#parts.tallies.get(slot);
    if (tally === undefined) return null;
    const grows = this.#parts.selector.view(slot)?.growth.some((growth) => growth > 1) ?? false;
    return reportOf(tally, this.#parts.options.cache.tiersOf(slot), grows);
  }

  /** Whether a slot can take rows over: what is kept beside them follows from their keys alone. */
  canReuse(slot: number): boolean {
    return this.#parts.selector.view(slot)?.policy.store !== "mass";
  }

  [Symbol.dispose](): void {
    this.decode.unbind();
    this.#parts.recall?.[Symbol.dispose]();
    this.#parts.offload?.[Symbol.dispose]();
    this.#parts.observed?.[Symbol.dispose]();
    this.#parts.selector[Symbol.dispose]();
    this.#parts.attention[Symbol.dispose]();
  }
}
