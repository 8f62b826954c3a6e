/**
 * The part of a step that depends on how the cache of each sequence is kept: what is written beside
 * the rows, what is selected, which kernels attend. Made when the first sequence needs it; without
 * it every row attends to everything.
 *
 * @module
 */
import type { Calibration } from "../butler/calibration/file.ts";
import { type LayerWork, Selector, type SelectorRow } from "../butler/selector.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import type { KvReport, KvSettings } from "../butler/settings_types.ts";
import { attendedRows } from "../butler/slots.ts";
import type { SequenceNeed } from "../kv/types.ts";
import type { ActivationBuffers, ForwardOptions } from "./forward_parts.ts";
import { type BoundAttention, SelectedAttention, slabPlace } from "./selected_attention.ts";
import { STEP_SLOTS, stepStrideOf } from "./step_slots.ts";
import type { Submission } from "./submission.ts";

/** What {@linkcode CacheSteps} is made of. */
export interface CacheStepsOptions {
  readonly forward: ForwardOptions;
  readonly activations: ActivationBuffers;
  readonly maxPrefill: number;
  readonly calibration: Calibration | null;
}

/** A decode step in which some row does not simply attend to everything. */
export interface DecodePlan {
  readonly layers: readonly LayerWork[];
  readonly numRows: number;
  /** For the step's uniform. */
  readonly denseSplits: number;
  readonly rowsSplits: number;
  readonly storeCounts: readonly number[];
}

interface Tally {
  readonly settings: KvSettings;
  steps: number;
  rows: number;
}

/** Selection and attention over it. */
export class CacheSteps {
  readonly #options: CacheStepsOptions;
  readonly #attention: SelectedAttention;
  readonly #selector: Selector;
  readonly #tallies = new Map<number, Tally>();
  #bound: BoundAttention[] = [];

  private constructor(options: CacheStepsOptions, attention: SelectedAttention) {
    const { forward, activations, maxPrefill, calibration } = options;
    this.#options = options;
    this.#attention = attention;
    const stride = stepStrideOf(forward.kernels.caps);
    this.#selector = new Selector({
      ...forward,
      qkv: activations.qkv,
      maxPrefill,
      calibration,
      storeOffset: (kind) => (STEP_SLOTS.store + kind) * stride,
      onRebind: () => this.#unbind(),
    });
  }

  /** Compiles the kernels that every policy needs. */
  static async create(options: CacheStepsOptions): Promise<CacheSteps> {
    const attention = await SelectedAttention.create(options.forward, options.activations);
    return new CacheSteps(options, attention);
  }

  /** Lists of selected rows. */
  get selection(): SelectionBuffers {
    return this.#selector.buffers;
  }

  /** Takes a sequence in that does not simply attend to everything. */
  async begin(slot: number, { settings, maxRows }: SequenceNeed): Promise<void> {
    await this.#selector.begin(slot, settings, maxRows);
    this.#tallies.set(slot, { settings, steps: 0, rows: 0 });
  }

  /** Forgets a slot. */
  end(slot: number): void {
    this.#selector.end(slot);
    this.#tallies.delete(slot);
  }

  /** What was done for a slot so far; null for one that attends to everything. */
  report(slot: number): KvReport | null {
    const tally = this.#tallies.get(slot);
    if (tally === undefined) return null;
    const { settings, steps, rows } = tally;
    return {
      policy: settings.policy,
      settings,
      rowsPerStep: steps === 0 ? 0 : rows / steps,
      bytesPerStep: 0,
      residentShare: 1,
      tiers: { device: 0, host: 0, disk: 0 },
      recall: null,
      notes: [],
    };
  }

  /** Before a prefill chunk: whether its rows need something written beside them. */
  preparePrefill(slot: number, first: number, count: number): boolean {
    return this.#selector.preparePrefill(slot, first, count);
  }

  /** Rows whose importance is written in this step, by scorer. */
  get storeCounts(): readonly number[] {
    return this.#selector.storeCounts;
  }

  /** After a chunk's rows were written in a layer. */
  encodePrefill(submission: Submission, slot: number, layer: number): void {
    this.#selector.encodePrefill(submission.pass, slot, layer);
  }

  /** Decides what a decode step does; null if every row attends to everything. */
  planDecode(rows: readonly SelectorRow[]): DecodePlan | null {
    if (!rows.some(({ slot }) => this.#selector.view(slot) !== undefined)) return null;
    const layers = this.#selector.prepareDecode(rows);
    for (const { slot, position } of rows) this.#count(slot, position + 1);
    const { attentionSplit } = this.#options.forward.plan;
    const most = (pick: (layer: LayerWork) => number) =>
      layers.reduce((sum, layer) => Math.max(sum, pick(layer)), 0);
    const splits = (keys: number) => Math.max(1, Math.ceil(keys / attentionSplit));
    return {
      layers,
      numRows: rows.length,
      denseSplits: splits(most((layer) => layer.denseKeys)),
      rowsSplits: splits(most((layer) => layer.rowsKeys)),
      storeCounts: [...this.#selector.storeCounts],
    };
  }

  /** Selects, and attends, in a layer of a decode step. */
  encodeDecode(submission: Submission, layer: number, plan: DecodePlan): void {
    const work = plan.layers[layer]!;
    const stride = stepStrideOf(this.#options.forward.kernels.caps);
    const { pass } = submission;
    this.#selector.encodeDecode(pass, layer, plan.numRows, work, STEP_SLOTS.layers * stride);
    this.#layer(layer).encode(pass, plan.numRows, {
      dense: work.dense
        ? { splits: plan.denseSplits, stepOffset: STEP_SLOTS.layers * stride }
        : null,
      rows: work.rows
        ? { splits: plan.rowsSplits, stepOffset: STEP_SLOTS.selected * stride }
        : null,
      place: null,
    });
  }

  #count(slot: number, n: number): void {
    const tally = this.#tallies.get(slot);
    const view = this.#selector.view(slot);
    if (tally === undefined || view === undefined) return;
    let sum = 0;
    let layers = 0;
    tally.settings.layers.forEach(({ role }, layer) => {
      if (role === "dense") return;
      sum += attendedRows(view.layer(layer), n);
      layers++;
    });
    tally.steps++;
    tally.rows += layers === 0 ? n : sum / layers;
  }

  #layer(layer: number): BoundAttention {
    let bound = this.#bound[layer];
    if (bound === undefined) {
      const { forward } = this.#options;
      bound = this.#attention.bind(slabPlace(forward, this.#selector.buffers, layer));
      this.#bound[layer] = bound;
    }
    return bound;
  }

  #unbind(): void {
    for (const bound of this.#bound) bound?.[Symbol.dispose]();
    this.#bound = [];
  }

  [Symbol.dispose](): void {
    this.#unbind();
    this.#selector[Symbol.dispose]();
    this.#attention[Symbol.dispose]();
  }
}
