/**
 * Submissions of the model: tables are filled, layers, head and sampler encoded, the result read.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import type { Sampler, SampleRow } from "../gpu/ops/sample.ts";
import type { Readback } from "../gpu/readback.ts";
import type { DeviceTier } from "../kv/device_tier.ts";
import type { DecodePlan } from "./cache_decode.ts";
import type { CacheSteps } from "./cache_steps.ts";
import type { Forward } from "./forward.ts";
import type { StepKind } from "./forward_parts.ts";
import { encodeChunk, encodePlain, encodePlanned } from "./layer_encoder.ts";
import type { PrefillObserver, SelectionObserver } from "./observer.ts";
import type { Sampled } from "./runner_types.ts";
import { stepError } from "./step_errors.ts";
import type { StepInputs, StepRow } from "./step_inputs.ts";
import { Submission } from "./submission.ts";

/** Time in which a lost device is reported once calls fail because of it. */
const LOSS_NEWS_MS = 20;

/** Time of the last step on the host's side, in milliseconds. */
export interface HostCost {
  /** Filling tables, encoding and submitting. */
  encodeMs: number;
  /** Waiting for the device and copying the result. */
  waitMs: number;
}

/** What {@linkcode DeviceSteps} work with; their maker disposes of it. */
export interface DeviceStepParts {
  readonly kernels: Kernels;
  readonly kv: DeviceTier;
  readonly forward: Forward;
  readonly inputs: StepInputs;
  readonly sampler: Sampler;
  readonly readback: Readback;
  /** Null as long as every sequence attends to everything on the device. */
  readonly cache: () => CacheSteps | null;
  /** A slot has so many rows now. */
  readonly onWritten: (slot: number, numRows: number, isDecode: boolean) => void;
}

/** What one submission does; see {@linkcode DeviceSteps.run}. */
interface WholeStep {
  readonly kind: StepKind | null;
  readonly rows: readonly StepRow[];
  readonly firstLogit: number;
  readonly numLogits: number;
  readonly samples: readonly SampleRow[];
  readonly total: number;
  /** On the clock of `performance.now()`. */
  readonly began: number;
}

/** Runs submissions, one at a time. */
export class DeviceSteps {
  readonly hostCost: HostCost = { encodeMs: 0, waitMs: 0 };
  /** Sees the prefill chunks of sequences that lie on the device as a whole. */
  observer: PrefillObserver | null = null;
  /** Sees what the decode steps of such sequences select; they attend to everything meanwhile. */
  selectionObserver: SelectionObserver | null = null;
  readonly #parts: DeviceStepParts;

  constructor(parts: DeviceStepParts) {
    this.#parts = parts;
  }

  /**
   * One submission: the layers for `rows` (none with `kind` null: the rows of the submission
   * before), then the head for `numLogits` rows from `firstLogit`, then sampling.
   *
   * @param total Of prefill: rows that are prefilled in all.
   */
  async run(
    kind: StepKind | null,
    rows: readonly StepRow[],
    firstLogit: number,
    numLogits: number,
    samples: readonly SampleRow[],
    total = 0,
  ): Promise<Sampled[]> {
    const cache = this.#parts.cache();
    this.#parts.kernels.check();
    const began = performance.now();
    const plan = kind === "decode" ? cache?.decode.plan(rows) ?? null : null;
    const step = { kind, rows, firstLogit, numLogits, samples, total, began };
    try {
      return await this.#run(step, cache, plan);
    } finally {
      // A step that is given up as a whole has moved what it moved.
      if (plan !== null) cache!.decode.count(plan);
    }
  }

  async #run(
    { kind, rows, firstLogit, numLogits, samples, total, began }: WholeStep,
    cache: CacheSteps | null,
    plan: DecodePlan | null,
  ): Promise<Sampled[]> {
    const { kernels, kv, forward, inputs, sampler, readback } = this.#parts;
    const numSplits = plan?.denseSplits ?? (kind === "decode" ? this.#splitsOf(rows) : 1);
    const stores = kind === "prefill" &&
      cache?.prefill.prepare(rows[0]!.slot, rows[0]!.position, rows.length, total) === true;
    const chunk = kind === "prefill"
      ? cache?.prefill.beginChunk(rows[0]!.slot, rows[0]!.position, rows.length) ?? null
      : null;
    kv.flush();
    if (kind !== null) inputs.writeRows(rows);
    inputs.writeStep({
      numRows: rows.length,
      numSplits,
      firstLogit,
      numLogits,
      selectedSplits: plan?.rowsSplits ?? 1,
      stageSplits: plan?.stageSplits ?? 1,
      allSplits: plan?.allSplits ?? 1,
      storeCounts: plan?.storeCounts ?? (stores ? cache!.prefill.storeCounts : []),
    });
    if (numLogits > 0) sampler.prepare(samples);

    const submission = new Submission(kernels.device, kind ?? "head");
    if (chunk !== null) await encodeChunk(submission, forward, cache!, chunk, stores);
    else if (plan !== null) {
      await encodePlanned(submission, forward, cache!, plan, this.selectionObserver);
    } else if (kind !== null) {
      const storedSlot = stores ? rows[0]!.slot : null;
      const observer = kind === "prefill" ? this.observer : null;
      const step = { kind, numRows: rows.length, numSplits, storedSlot, observer };
      encodePlain(submission, forward, cache, step);
    }
    const bytes = numLogits * sampler.bytesPerRow;
    if (numLogits > 0) {
      forward.encodeHead(submission.pass, numLogits, inputs.stride);
      sampler.encode(submission.pass);
    }
    // Without logits a few bytes are read all the same: reading is what waits for the device.
    submission.copy(sampler.results, 0, readback.target, 0, bytes || 16);
    if (plan !== null) await cache!.decode.encodeEnd(submission, plan);
    submission.submit();
    const submitted = performance.now();
    if (plan !== null) cache!.decode.meanwhile(submission, plan);
    const result = await this.read(bytes || 16);
    const failures = plan === null ? null : await cache!.decode.end(submission, plan);
    kernels.check();
    for (const { slot, position } of rows) {
      this.#parts.onWritten(slot, position + 1, kind === "decode");
    }
    this.hostCost.encodeMs = submitted - began;
    this.hostCost.waitMs = performance.now() - submitted;
    if (numLogits === 0) return [];
    const sampled = sampler.parse(result, numLogits);
    if (failures === null || failures.size === 0) return sampled;
    return sampled.map((choice, row) => {
      const failure = failures.get(rows[row]!.slot);
      return failure === undefined ? choice : { ...choice, error: stepError(failure) };
    });
  }

  #splitsOf(rows: readonly StepRow[]): number {
    const last = rows.reduce((most, { position }) => Math.max(most, position), 0);
    return this.#parts.forward.attention.splitsFor(last);
  }

  /** Waits for what was submitted, and reads the first bytes of the readback's target. */
  async read(byteLength: number): Promise<Uint8Array> {
    try {
      const read = this.#parts.readback.read(byteLength);
      return read instanceof Uint8Array ? read : await read;
    } catch (error) {
      // That a device is lost becomes known a while after the calls that fail because of it.
      await new Promise((resolve) => setTimeout(resolve, LOSS_NEWS_MS));
      this.#parts.kernels.check();
      throw error;
    }
  }
}
