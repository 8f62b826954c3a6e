/**
 * Runs steps of the model on the device: fills the row tables, encodes one compute pass, submits
 * it, and reads back token ids and what log-probabilities were asked for.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { ropeAngles } from "../gpu/ops/rope.ts";
import { Sampler, type SampleRow } from "../gpu/ops/sample.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import { Readback } from "../gpu/readback.ts";
import { STEP_PARAMS } from "../gpu/step_params.ts";
import type { DeviceTier } from "../kv/device_tier.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { StagedChunk } from "./staged_prefill.ts";
import type { ModelConfig, ModelSource, RopeConfig } from "../model/types.ts";
import { Forward } from "./forward.ts";
import type { StepKind } from "./forward_parts.ts";
import type {
  DecodeRow,
  ParkedRows,
  PrefillChunk,
  PrefillResult,
  Runner,
  Sampled,
} from "./runner_types.ts";
import { CacheSteps, type DecodePlan, type ParkedSteps } from "./cache_steps.ts";
import { PrefixSteps } from "./prefix_steps.ts";
import type { Prefixes } from "./prefixes.ts";
import { stepError } from "./step_errors.ts";
import { NUM_STEP_SLOTS, STEP_SLOTS, stepStrideOf } from "./step_slots.ts";
import { Submission } from "./submission.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import type { Calibration } from "../butler/calibration/file.ts";
import type { SequenceNeed } from "../kv/types.ts";
import { DenseReports, type DenseTally } from "./dense_reports.ts";
import type { KvReport } from "../butler/settings_types.ts";
import type { TokenLogprob } from "./types.ts";
import { wholeBlocks } from "../kv/block_reader.ts";
import { Parking } from "../kv/parking.ts";
import type { StoredSequence } from "../kv/store/types.ts";
import type { WeightStore } from "./weights.ts";

/** Rows of logits that are made together when a prompt is scored. */
const SCORE_ROWS = 16;

/** Time in which a lost device is reported once calls fail because of it. */
const LOSS_NEWS_MS = 20;

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
  readonly readback?: "sync" | "awaited";
}

/** A sequence without a slot. */
interface Parked extends ParkedRows {
  readonly stored: StoredSequence;
  readonly steps: ParkedSteps | null;
  readonly dense: DenseTally | null;
}

interface StepRow {
  readonly slot: number;
  readonly position: number;
  readonly token: number;
}

/** Time of the last step on the host's side, in milliseconds. */
export interface HostCost {
  /** Filling tables, encoding and submitting. */
  encodeMs: number;
  /** Waiting for the device and copying the result. */
  waitMs: number;
}

/** The runner on a device. */
export class ModelRunner implements Runner {
  readonly hostCost: HostCost = { encodeMs: 0, waitMs: 0 };

  readonly #options: ModelRunnerOptions;
  readonly #forward: Forward;
  readonly #sampler: Sampler;
  readonly #readback: Readback;
  readonly #buffers: StepBuffers;
  readonly #dense = new DenseReports();
  #cache: CacheSteps | null = null;
  #parking: Parking | null = null;
  /** By slot: rows that are written. */
  readonly #written = new Map<number, number>();
  readonly #rowWords: Uint32Array<ArrayBuffer>;
  readonly #angleValues: Float32Array<ArrayBuffer>;
  readonly #stepWords: Uint32Array<ArrayBuffer>;

  private constructor(
    options: ModelRunnerOptions,
    buffers: StepBuffers,
    forward: Forward,
    sampler: Sampler,
    readback: Readback,
  ) {
    this.#options = options;
    this.#buffers = buffers;
    this.#forward = forward;
    this.#sampler = sampler;
    this.#readback = readback;
    const rows = maxRows(options);
    this.#rowWords = new Uint32Array(rows * 4);
    this.#angleValues = new Float32Array(rows * options.rope.dimensions);
    this.#stepWords = new Uint32Array(buffers.stepStride / 4 * NUM_STEP_SLOTS);
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
    const { kernels, config, maxSequences } = options;
    const buffers = stepBuffers(options);
    const maxLogitRows = Math.max(maxSequences, SCORE_ROWS);
    const forward = await Forward.create(
      {
        ...options,
        maxRows: maxRows(options),
        maxLogitRows,
        step: { buffer: buffers.step, offset: 0, size: STEP_PARAMS.size },
        rows: buffers.rows,
        angles: buffers.angles,
        lastTokens: buffers.lastTokens,
      },
      source,
      weights,
    );
    const sampler = await Sampler.create(kernels, {
      vocabSize: config.vocabSize,
      maxRows: maxLogitRows,
      logits: forward.logits,
      lastTokens: buffers.lastTokens,
      overrides: options.overrides,
    });
    const readback = await Readback.create(
      kernels.device,
      maxLogitRows * sampler.bytesPerRow,
      options.readback,
    );
    return new ModelRunner(options, buffers, forward, sampler, readback);
  }

  get readbackMode(): "sync" | "awaited" {
    return this.#readback.mode;
  }

  /** (rows, vocabulary) f32, those of the last head; for tests, nothing else reads them back. */
  get logits(): GPUBuffer {
    return this.#forward.logits;
  }

  async begin(slot: number, need: SequenceNeed): Promise<void> {
    const { cache, maxPrefill, calibration, readback } = this.#options;
    if (need.settings.policy === "dense" && cache.offloaded(slot) === null) {
      return this.#dense.begin(slot, need.settings);
    }
    this.#cache ??= await CacheSteps.create({
      forward: this.#forward,
      cache,
      maxPrefill,
      calibration: calibration ?? null,
      ...(readback === undefined ? {} : { readback }),
    });
    await this.#cache.begin(slot, need);
  }

  report(slot: number): KvReport | null {
    const tiers = () => this.#options.cache.tiersOf(slot);
    return this.#dense.report(slot, tiers) ?? this.#cache?.report(slot) ?? null;
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
      if (this.#cache?.preparePrefill(slot, first, count, numRows) !== true) return;
      kernels.check();
      kv.flush();
      this.#writeStep({ ...NO_ROWS, storeCounts: this.#cache.storeCounts });
      const submission = new Submission(kernels.device, "adopt");
      for (let layer = 0; layer < config.numLayers; layer++) {
        this.#cache.encodeAdopted(submission, slot, layer, first, count);
      }
      submission.copy(this.#sampler.results, 0, this.#readback.target, 0, 16);
      submission.submit();
      await this.#read(16);
    }
  }

  async park(slot: number): Promise<ParkedRows | null> {
    const { kernels, cache } = this.#options;
    const parking = await this.#ensureParking();
    const numRows = this.#written.get(slot) ?? 0;
    const below = cache.offloaded(slot);
    const submission = new Submission(kernels.device, "park");
    const stored = below?.stored ?? cache.store.open();
    // Of a sequence below the device only the unfinished block is missing there.
    const from = below === null ? 0 : wholeBlocks(numRows);
    const saved = await parking.save(submission, slot, numRows, stored, from);
    submission.submit();
    if (!saved) {
      if (below === null) stored[Symbol.dispose]();
      return null;
    }
    const steps = await this.#cache?.park(slot, submission) ?? null;
    const dense = this.#dense.tally(slot);
    submission.submit();
    cache.detach(slot);
    const parked: Parked = {
      numRows,
      stored,
      steps,
      dense,
      [Symbol.dispose]() {
        stored[Symbol.dispose]();
        steps?.[Symbol.dispose]();
      },
    };
    return parked;
  }

  restore(slot: number, rows: ParkedRows): Promise<void> {
    const { cache } = this.#options;
    const { numRows, stored, steps, dense } = rows as Parked;
    const below = cache.offloaded(slot);
    if (below !== null) {
      cache.attach(slot, stored);
      below.extend(numRows);
    }
    this.#parking!.load(slot, stored);
    if (below === null) stored[Symbol.dispose]();
    else stored.truncate(wholeBlocks(numRows));
    if (steps !== null) {
      const submission = new Submission(this.#options.kernels.device, "restore");
      this.#cache!.resume(slot, numRows, steps, submission);
    }
    if (dense !== null) this.#dense.begin(slot, dense.settings, dense);
    this.#written.set(slot, numRows);
    return Promise.resolve();
  }

  async decode(rows: readonly DecodeRow[]): Promise<readonly Sampled[]> {
    return await this.#run("decode", rows, 0, rows.length, rows.map(sampleRow));
  }

  async prefill(chunk: PrefillChunk): Promise<PrefillResult> {
    const { slot, start, tokens, sample, scoring } = chunk;
    const total = chunk.total ?? start + tokens.length;
    const rows = tokens.map((token, index) => ({ slot, position: start + index, token }));
    const scores: TokenLogprob[] = [];
    if (scoring === null || scoring.targets.length === 0) {
      const samples = sample === null ? [] : [{ slot, spec: sample }];
      const last = rows.length - 1;
      const sampled = await this.#run("prefill", rows, last, samples.length, samples, total);
      return { sampled: sampled[0] ?? null, scores };
    }
    // The layers run once; the head runs over the rows in pieces, for logits are large.
    await this.#run("prefill", rows, 0, 0, [], total);
    for (let first = 0; first < scoring.targets.length; first += SCORE_ROWS) {
      const targets = scoring.targets.slice(first, first + SCORE_ROWS);
      const samples = targets.map((target) => scoreRow(target, scoring.top));
      for (const { logprob } of await this.#run(null, [], first, targets.length, samples)) {
        if (logprob !== null) scores.push(logprob);
      }
    }
    if (sample === null) return { sampled: null, scores };
    const last = await this.#run(null, [], rows.length - 1, 1, [{ slot, spec: sample }]);
    return { sampled: last[0]!, scores };
  }

  /**
   * One submission: the layers for `rows` (none with `kind` null: the rows of the submission
   * before), then the head for `numLogits` rows from `firstLogit`, then sampling.
   *
   * @param total Of prefill: rows that are prefilled in all.
   */
  async #run(
    kind: StepKind | null,
    rows: readonly StepRow[],
    firstLogit: number,
    numLogits: number,
    samples: readonly SampleRow[],
    total = 0,
  ): Promise<Sampled[]> {
    const { kernels, kv } = this.#options;
    kernels.check();
    const began = performance.now();
    const plan = kind === "decode" ? this.#cache?.planDecode(rows) ?? null : null;
    const numSplits = plan?.denseSplits ?? (kind === "decode" ? this.#splitsOf(rows) : 1);
    const stores = kind === "prefill" &&
      this.#cache?.preparePrefill(rows[0]!.slot, rows[0]!.position, rows.length, total) === true;
    const chunk = kind === "prefill"
      ? this.#cache?.beginChunk(rows[0]!.slot, rows[0]!.position, rows.length) ?? null
      : null;
    kv.flush();
    if (kind !== null) this.#writeRows(rows);
    this.#writeStep({
      numRows: rows.length,
      numSplits,
      firstLogit,
      numLogits,
      selectedSplits: plan?.rowsSplits ?? 1,
      stageSplits: plan?.stageSplits ?? 1,
      allSplits: plan?.allSplits ?? 1,
      storeCounts: plan?.storeCounts ?? (stores ? this.#cache!.storeCounts : []),
    });
    if (numLogits > 0) this.#sampler.prepare(samples);

    const submission = new Submission(kernels.device, kind ?? "head");
    if (chunk !== null) await this.#encodeChunk(submission, rows.length, chunk, stores);
    else if (plan !== null) await this.#encodePlanned(submission, plan);
    else if (kind !== null) {
      this.#encodeLayers(submission, kind, rows.length, numSplits, stores ? rows[0]!.slot : null);
    }
    const bytes = numLogits * this.#sampler.bytesPerRow;
    if (numLogits > 0) {
      this.#forward.encodeHead(submission.pass, numLogits, this.#buffers.stepStride);
      this.#sampler.encode(submission.pass);
    }
    // Without logits a few bytes are read all the same: reading is what waits for the device.
    submission.copy(this.#sampler.results, 0, this.#readback.target, 0, bytes || 16);
    if (plan !== null) await this.#cache!.encodeEnd(submission, plan);
    submission.submit();
    const submitted = performance.now();
    if (plan !== null) this.#cache!.meanwhile(submission, plan);
    const result = await this.#read(bytes || 16);
    const failures = plan === null ? null : await this.#cache!.endDecode(submission, plan);
    kernels.check();
    for (const { slot, position } of rows) {
      this.#written.set(slot, position + 1);
      if (kind === "decode") this.#dense.add(slot, position + 1);
    }
    this.hostCost.encodeMs = submitted - began;
    this.hostCost.waitMs = performance.now() - submitted;
    if (numLogits === 0) return [];
    const sampled = this.#sampler.parse(result, numLogits);
    if (failures === null || failures.size === 0) return sampled;
    return sampled.map((choice, row) => {
      const failure = failures.get(rows[row]!.slot);
      return failure === undefined ? choice : { ...choice, error: stepError(failure) };
    });
  }

  #splitsOf(rows: readonly StepRow[]): number {
    const last = rows.reduce((most, { position }) => Math.max(most, position), 0);
    return this.#forward.attention.splitsFor(last);
  }

  #encodeLayers(
    submission: Submission,
    kind: StepKind,
    numRows: number,
    numSplits: number,
    storedSlot: number | null,
  ): void {
    const { attention } = this.#forward;
    const { numLayers } = this.#options.config;
    this.#forward.encodeInput(submission.pass, numRows, 0);
    for (let layer = 0; layer < numLayers; layer++) {
      this.#forward.encodeQkv(submission.pass, layer, numRows, 0);
      attention.encodeRope(submission.pass, layer, numRows, 0);
      if (storedSlot !== null) this.#cache!.encodePrefill(submission, storedSlot, layer);
      const observed = storedSlot !== null &&
        this.#cache!.encodeObserved(submission, storedSlot, layer, numRows);
      if (!observed) attention.encodeAll(submission.pass, kind, layer, numRows, numSplits, 0);
      this.#forward.encodeOutput(submission.pass, layer, numRows, 0);
    }
  }

  /** A decode step in which some row attends to a selection, or lies below the device. */
  async #encodePlanned(submission: Submission, plan: DecodePlan): Promise<void> {
    const { numRows } = plan;
    this.#forward.encodeInput(submission.pass, numRows, 0);
    for (let layer = 0; layer < this.#options.config.numLayers; layer++) {
      this.#forward.encodeQkv(submission.pass, layer, numRows, 0);
      this.#forward.attention.encodeRope(submission.pass, layer, numRows, 0);
      await this.#cache!.encodeDecode(submission, layer, plan);
      this.#forward.encodeOutput(submission.pass, layer, numRows, 0);
    }
  }

  /** A prefill chunk of a sequence below the device. */
  async #encodeChunk(
    submission: Submission,
    numRows: number,
    chunk: StagedChunk,
    stores: boolean,
  ): Promise<void> {
    this.#forward.encodeInput(submission.pass, numRows, 0);
    for (let layer = 0; layer < this.#options.config.numLayers; layer++) {
      this.#forward.encodeQkv(submission.pass, layer, numRows, 0);
      await this.#cache!.encodeChunk(submission, layer, chunk, stores);
      this.#forward.encodeOutput(submission.pass, layer, numRows, 0);
      await this.#cache!.finishChunkLayer(submission, layer, chunk);
    }
    await this.#cache!.finishChunk(submission);
  }

  async #read(byteLength: number): Promise<Uint8Array> {
    try {
      const read = this.#readback.read(byteLength);
      return read instanceof Uint8Array ? read : await read;
    } catch (error) {
      // That a device is lost becomes known a while after the calls that fail because of it.
      await new Promise((resolve) => setTimeout(resolve, LOSS_NEWS_MS));
      this.#options.kernels.check();
      throw error;
    }
  }

  #writeRows(rows: readonly StepRow[]): void {
    const { kernels, rope } = this.#options;
    const words = this.#rowWords;
    const rotary = rope.dimensions;
    rows.forEach(({ slot, position, token }, index) => {
      words[index * 4] = token;
      words[index * 4 + 1] = slot;
      words[index * 4 + 2] = position;
      ropeAngles(rope, position, this.#angleValues, index * rotary);
    });
    const { queue } = kernels.device;
    queue.writeBuffer(this.#buffers.rows, 0, words, 0, rows.length * 4);
    queue.writeBuffer(this.#buffers.angles, 0, this.#angleValues, 0, rows.length * rotary);
  }

  #writeStep(step: StepNumbers): void {
    const {
      numRows,
      numSplits,
      firstLogit,
      numLogits,
      selectedSplits,
      stageSplits,
      allSplits,
      storeCounts,
    } = step;
    const stride = this.#buffers.stepStride / 4;
    const put = (slot: number, num_rows: number, num_splits: number, logits_row = 0) =>
      this.#stepWords.set(
        STEP_PARAMS.pack({ first_row: 0, num_rows, num_splits, logits_row }),
        slot * stride,
      );
    put(STEP_SLOTS.layers, numRows, numSplits);
    put(STEP_SLOTS.head, numLogits, numSplits, firstLogit);
    put(STEP_SLOTS.selected, numRows, selectedSplits);
    put(STEP_SLOTS.stage, numRows, stageSplits);
    put(STEP_SLOTS.all, numRows, allSplits);
    storeCounts.forEach((count, kind) => put(STEP_SLOTS.store + kind, count, 1));
    this.#options.kernels.device.queue.writeBuffer(this.#buffers.step, 0, this.#stepWords);
  }

  [Symbol.dispose](): void {
    this.#cache?.[Symbol.dispose]();
    this.#parking?.[Symbol.dispose]();
    this.#forward[Symbol.dispose]();
    this.#sampler[Symbol.dispose]();
    this.#readback[Symbol.dispose]();
    const { step, rows, angles, lastTokens } = this.#buffers;
    for (const buffer of [step, rows, angles, lastTokens]) buffer.destroy();
  }
}

/** What the places of the step's uniform say. */
interface StepNumbers {
  readonly numRows: number;
  readonly numSplits: number;
  readonly firstLogit: number;
  readonly numLogits: number;
  readonly selectedSplits: number;
  readonly stageSplits: number;
  readonly allSplits: number;
  readonly storeCounts: readonly number[];
}

/** A submission without rows of its own. */
const NO_ROWS: StepNumbers = {
  numRows: 0,
  numSplits: 1,
  firstLogit: 0,
  numLogits: 0,
  selectedSplits: 1,
  stageSplits: 1,
  allSplits: 1,
  storeCounts: [],
};

interface StepBuffers {
  readonly stepStride: number;
  readonly step: GPUBuffer;
  readonly rows: GPUBuffer;
  readonly angles: GPUBuffer;
  readonly lastTokens: GPUBuffer;
}

function maxRows(options: ModelRunnerOptions): number {
  return Math.max(options.maxPrefill, options.maxSequences);
}

function stepBuffers(options: ModelRunnerOptions): StepBuffers {
  const { kernels, rope } = options;
  const stepStride = stepStrideOf(kernels.caps);
  const rows = maxRows(options);
  return {
    stepStride,
    step: kernels.uniform("step", new Uint32Array(stepStride / 4 * NUM_STEP_SLOTS)),
    rows: kernels.storage("rows", rows * 16),
    angles: kernels.storage("angles", rows * rope.dimensions * 4),
    lastTokens: kernels.storage("last tokens", options.maxSequences * 4),
  };
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
