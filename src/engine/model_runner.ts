/**
 * Runs steps of the model on the device: fills the row tables, encodes one compute pass, submits
 * it, and reads back token ids and what log-probabilities were asked for.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { Sampler, type SampleRow } from "../gpu/ops/sample.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import { Readback } from "../gpu/readback.ts";
import { STEP_PARAMS } from "../gpu/step_params.ts";
import type { DeviceTier } from "../kv/device_tier.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { ModelConfig, ModelSource, RopeConfig } from "../model/types.ts";
import { Forward } from "./forward.ts";
import type { ActivationBuffers } from "./forward_parts.ts";
import {
  type DecodeRow,
  NO_STEPS,
  type ParkedRows,
  type PrefillChunk,
  type PrefillResult,
  type Runner,
  type Sampled,
  type StepTotals,
} from "./runner_types.ts";
import { CacheSteps } from "./cache_steps.ts";
import { DeviceSteps } from "./device_steps.ts";
import { PrefixSteps } from "./prefix_steps.ts";
import type { Prefixes } from "./prefixes.ts";
import { type ParkedSlot, parkSlot, restoreSlot } from "./slot_parking.ts";
import { NO_ROWS, StepInputs } from "./step_inputs.ts";
import { Submission } from "./submission.ts";
import type { MovedTotals } from "./tally.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import type { Calibration } from "../butler/calibration/file.ts";
import type { Predictor } from "../butler/predictor/predictor.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import type { SequenceNeed } from "../kv/types.ts";
import { DenseReports } from "./dense_reports.ts";
import type { KvReport } from "../butler/settings_types.ts";
import type { TokenLogprob } from "./types.ts";
import { Parking } from "../kv/parking.ts";
import type { WeightStore } from "./weights.ts";

/** Rows of logits that are made together when a prompt is scored. */
const SCORE_ROWS = 16;

/** What a runner is built from. */
export interface ModelRunnerOptions {
  readonly kernels: Kernels;
  readonly plan: KernelPlan;
  readonly config: ModelConfig;
  readonly rope: RopeConfig;
  readonly kv: DeviceTier;
  /** The tiers that the device's is one of. */
  readonly cache: TieredCache;
  readonly kvType: "f16" | "f32";
  readonly maxSequences: number;
  /** Rows of a prefill chunk, at most. */
  readonly maxPrefill: number;
  readonly overrides: Readonly<Record<string, string>>;
  /** What `loki` needs; null where there is none. */
  readonly calibration?: Calibration | null;
  /** What `tokenbutler` needs; null where there is none. */
  readonly predictor?: Predictor | null;
  /** Form of the keys that both of these are scored by. */
  readonly importanceKeys: ImportanceKeys;
  readonly readback?: "sync" | "awaited";
}

/** The runner on a device. */
export class ModelRunner implements Runner {
  readonly #options: ModelRunnerOptions;
  readonly #forward: Forward;
  readonly #sampler: Sampler;
  readonly #readback: Readback;
  readonly #inputs: StepInputs;
  readonly #steps: DeviceSteps;
  readonly #totals: MovedTotals = { ...NO_STEPS };
  readonly #dense = new DenseReports(this.#totals);
  #cache: CacheSteps | null = null;
  #parking: Parking | null = null;
  /** By slot: rows that are written. */
  readonly #written = new Map<number, number>();

  private constructor(
    options: ModelRunnerOptions,
    inputs: StepInputs,
    forward: Forward,
    sampler: Sampler,
    readback: Readback,
  ) {
    this.#options = options;
    this.#inputs = inputs;
    this.#forward = forward;
    this.#sampler = sampler;
    this.#readback = readback;
    const { kernels, kv } = options;
    this.#steps = new DeviceSteps({
      ...{ kernels, kv, forward, inputs, sampler, readback },
      cache: () => this.#cache,
      onWritten: (slot, numRows, isDecode) => {
        this.#written.set(slot, numRows);
        if (isDecode) this.#dense.add(slot, numRows);
      },
    });
  }

  /** Submissions of the model, with those who look on. */
  get steps(): DeviceSteps {
    return this.#steps;
  }

  /**
   * Uploads the model and compiles its kernels.
   *
   * @throws {ModelFileError} If the file cannot be read.
   * @throws {DeviceError} If the device refuses.
   */
  static async create(
    options: ModelRunnerOptions,
    source: ModelSource,
    weights: WeightStore,
  ): Promise<ModelRunner> {
    const { kernels, config, rope, maxSequences } = options;
    const inputs = new StepInputs(kernels, rope, maxRows(options), maxSequences);
    const maxLogitRows = Math.max(maxSequences, SCORE_ROWS);
    const forward = await Forward.create(
      {
        ...options,
        maxRows: maxRows(options),
        maxLogitRows,
        step: { buffer: inputs.step, offset: 0, size: STEP_PARAMS.size },
        rows: inputs.rows,
        angles: inputs.angles,
        lastTokens: inputs.lastTokens,
      },
      source,
      weights,
    );
    const sampler = await Sampler.create(kernels, {
      vocabSize: config.vocabSize,
      maxRows: maxLogitRows,
      logits: forward.logits,
      lastTokens: inputs.lastTokens,
      overrides: options.overrides,
    });
    const readback = await Readback.create(
      kernels.device,
      maxLogitRows * sampler.bytesPerRow,
      options.readback,
    );
    return new ModelRunner(options, inputs, forward, sampler, readback);
  }

  get readbackMode(): "sync" | "awaited" {
    return this.#readback.mode;
  }

  /** (rows, vocabulary) f32, those of the last head; for tests, nothing else reads them back. */
  get logits(): GPUBuffer {
    return this.#forward.logits;
  }

  /** Buffers between the kernels of a step, for an observer. */
  get activations(): ActivationBuffers {
    return this.#forward.activations;
  }

  async begin(slot: number, need: SequenceNeed): Promise<void> {
    const { cache, maxPrefill, calibration, predictor, importanceKeys, readback } = this.#options;
    if (need.settings.policy === "dense" && cache.offloaded(slot) === null) {
      return this.#dense.begin(slot, need.settings);
    }
    this.#cache ??= await CacheSteps.create({
      forward: this.#forward,
      cache,
      maxPrefill,
      calibration: calibration ?? null,
      predictor: predictor ?? null,
      importanceKeys,
      totals: this.#totals,
      ...(readback === undefined ? {} : { readback }),
    });
    await this.#cache.begin(slot, need);
  }

  report(slot: number): KvReport | null {
    const tiers = () => this.#options.cache.tiersOf(slot);
    return this.#dense.report(slot, tiers) ?? this.#cache?.report(slot) ?? null;
  }

  get totals(): StepTotals {
    return { ...this.#totals, moved: this.#options.cache.moved };
  }

  /** Lists of selected rows; for tests. Null until a sequence has some. */
  get selection(): SelectionBuffers | null {
    return this.#cache?.selection ?? null;
  }

  /** A slot was released. */
  end(slot: number): void {
    this.#written.delete(slot);
    this.#dense.end(slot);
    this.#cache?.end(slot);
  }

  /** Prompts that were seen before. */
  get prefixes(): Prefixes {
    const { kernels, cache } = this.#options;
    return new PrefixSteps({
      kernels,
      cache,
      parking: () => this.#ensureParking(),
      canReuse: (slot) => this.#cache?.canReuse(slot) ?? true,
      adopt: (slot, numRows) => this.adopt(slot, numRows),
    });
  }

  async #ensureParking(): Promise<Parking> {
    const { kernels, cache, readback } = this.#options;
    return this.#parking ??= await Parking.create(kernels, cache, readback);
  }

  /**
   * Takes rows 0 .. numRows - 1 of a slot that has begun as they lie in the tiers, where no prefill
   * under these settings wrote them: what the policy keeps of every row is made from the keys.
   *
   * @throws {StoreReadError} If a row below the device cannot be read.
   */
  async adopt(slot: number, numRows: number): Promise<void> {
    const { kernels, kv, config, maxPrefill } = this.#options;
    this.#written.set(slot, numRows);
    for (let first = 0; first < numRows; first += maxPrefill) {
      const count = Math.min(maxPrefill, numRows - first);
      if (this.#cache?.prefill.prepare(slot, first, count, numRows) !== true) return;
      kernels.check();
      kv.flush();
      this.#inputs.writeStep({ ...NO_ROWS, storeCounts: this.#cache.prefill.storeCounts });
      const submission = new Submission(kernels.device, "adopt");
      for (let layer = 0; layer < config.numLayers; layer++) {
        this.#cache.prefill.encodeAdopted(submission, slot, layer, first, count);
      }
      submission.copy(this.#sampler.results, 0, this.#readback.target, 0, 16);
      submission.submit();
      await this.#steps.read(16);
    }
  }

  /**
   * Shows the rows of a slot in another free one too, so that several rows of a sequence can be decoded
   * in one step: each attends to the rows before it, those of the same step included. For policies that
   * select anew at every step from the keys alone.
   */
  alias(slot: number, source: number): void {
    const numRows = this.#written.get(source) ?? 0;
    this.#options.kv.flush();
    this.#options.kv.alias(slot, source);
    this.#cache?.alias(slot, source, numRows);
    this.#written.set(slot, numRows);
  }

  async park(slot: number): Promise<ParkedRows | null> {
    const { kernels, cache } = this.#options;
    const parking = await this.#ensureParking();
    const numRows = this.#written.get(slot) ?? 0;
    const parts = { kernels, cache, parking, steps: this.#cache, dense: this.#dense };
    return await parkSlot(parts, slot, numRows);
  }

  restore(slot: number, rows: ParkedRows): Promise<void> {
    const { kernels, cache } = this.#options;
    const parking = this.#parking!;
    const parts = { kernels, cache, parking, steps: this.#cache, dense: this.#dense };
    restoreSlot(parts, slot, rows as ParkedSlot);
    this.#written.set(slot, rows.numRows);
    return Promise.resolve();
  }

  async decode(rows: readonly DecodeRow[]): Promise<readonly Sampled[]> {
    return await this.#steps.run("decode", rows, 0, rows.length, rows.map(sampleRow));
  }

  async prefill(chunk: PrefillChunk): Promise<PrefillResult> {
    const { slot, start, tokens, sample, scoring } = chunk;
    const total = chunk.total ?? start + tokens.length;
    const rows = tokens.map((token, index) => ({ slot, position: start + index, token }));
    const scores: TokenLogprob[] = [];
    if (scoring === null || scoring.targets.length === 0) {
      const samples = sample === null ? [] : [{ slot, spec: sample }];
      const last = rows.length - 1;
      const sampled = await this.#steps.run("prefill", rows, last, samples.length, samples, total);
      return { sampled: sampled[0] ?? null, scores };
    }
    // The layers run once; the head runs over the rows in pieces, for logits are large.
    await this.#steps.run("prefill", rows, 0, 0, [], total);
    for (let first = 0; first < scoring.targets.length; first += SCORE_ROWS) {
      const targets = scoring.targets.slice(first, first + SCORE_ROWS);
      const samples = targets.map((target) => scoreRow(target, scoring.top));
      for (const { logprob } of await this.#steps.run(null, [], first, targets.length, samples)) {
        if (logprob !== null) scores.push(logprob);
      }
    }
    if (sample === null) return { sampled: null, scores };
    const last = await this.#steps.run(null, [], rows.length - 1, 1, [{ slot, spec: sample }]);
    return { sampled: last[0]!, scores };
  }

  [Symbol.dispose](): void {
    this.#cache?.[Symbol.dispose]();
    this.#parking?.[Symbol.dispose]();
    this.#forward[Symbol.dispose]();
    this.#sampler[Symbol.dispose]();
    this.#readback[Symbol.dispose]();
    this.#inputs[Symbol.dispose]();
  }
}

function maxRows(options: ModelRunnerOptions): number {
  return Math.max(options.maxPrefill, options.maxSequences);
}

function sampleRow(row: DecodeRow): SampleRow {
  return { slot: row.slot, spec: row.sample };
}

function scoreRow(target: number, top: number): SampleRow {
  return {
    slot: -1,
    spec: {
      temperature: 0,
      topK: 0,
      typicalP: 1,
      topP: 1,
      minP: 0,
      seed: 0,
      step: 0,
      adjustments: [],
      forced: target,
      logprobs: top,
    },
  };
}
