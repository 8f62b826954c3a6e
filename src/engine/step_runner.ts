/** Runs what the scheduler decided, and tells the sequences what came of it. @module */
import type { KvReport } from "../butler/settings_types.ts";
import { nextChunk, sharedChunkOf } from "./chunk_sizes.ts";
import type { PrefixUse } from "./prefixes.ts";
import type { Runner, Sampled } from "./runner_types.ts";
import type { Scheduler, Step } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";
import { type EngineTotals, TotalCounts } from "./totals.ts";

/** Time that a prefill chunk should take, in milliseconds, and the bounds of its size. */
export interface ChunkTarget {
  readonly ms: number;
  readonly least: number;
  readonly most: number;
}

/** What steps are run with. */
export interface StepRunnerOptions {
  readonly runner: Runner;
  readonly scheduler: Scheduler;
  readonly prefixes: PrefixUse;
  readonly vocabSize: number;
  /** Tokens of the first prefill chunk. */
  readonly prefillChunk: number;
  /** Null keeps the size of chunks. */
  readonly chunkTarget: ChunkTarget | null;
}

/** A step that something is run for. */
export type RunnableStep = Exclude<Step, { readonly kind: "refuse" }>;

/** Sequences of a step. */
export function sequencesOf(step: RunnableStep): readonly Sequence[] {
  return step.kind === "decode" ? step.sequences : [step.sequence];
}

/** Bytes of a sequence that is to be prefilled again. */
const NOWHERE: KvReport["tiers"] = { device: 0, host: 0, disk: 0 };

/** One step after the other. */
export class StepRunner {
  /** Decode steps so far. */
  decodeSteps = 0;
  /** Rows of all of them. */
  decodedRows = 0;
  /** Counts beside those of the runner. */
  readonly counts = new TotalCounts();
  /** Times that a sequence gave up its slot. */
  preemptions = 0;
  readonly #options: StepRunnerOptions;
  #prefillChunk: number;

  constructor(options: StepRunnerOptions) {
    this.#options = options;
    this.#prefillChunk = options.prefillChunk;
  }

  /** Work so far. */
  get totals(): EngineTotals {
    return this.counts.now(this.#options.runner.totals);
  }

  /** @throws Whatever makes the result of the whole step worthless. */
  async run(step: RunnableStep): Promise<void> {
    if (step.kind === "decode") await this.#decode(step.sequences);
    else if (step.kind === "park") await this.#park(step.sequence);
    else if (step.kind === "restore") await this.#restore(step.sequence);
    else await this.#prefill(step.sequence, step.count);
  }

  async #begin(sequence: Sequence): Promise<void> {
    const { slot } = sequence;
    if (sequence.begun || slot === null) return;
    await this.#options.runner.begin(slot, sequence.need);
    sequence.begun = true;
    sequence.reportKv = () => this.#options.runner.report(slot);
    const numFound = await this.#options.prefixes.adopt(sequence);
    if (numFound !== null) this.counts.lookedUp(sequence.numPrompt, numFound);
  }

  /** A sequence gives up its slot. One that no tier has room for is prefilled again, if that may be. */
  async #park(sequence: Sequence): Promise<void> {
    this.preemptions++;
    if (!sequence.begun) return this.#options.scheduler.preempt(sequence);
    const { runner, scheduler } = this.#options;
    const report = runner.report(sequence.slot!);
    const parked = await runner.park(sequence.slot!);
    if (parked !== null) scheduler.parked(sequence, parked);
    else if (sequence.isRepeatable) scheduler.preempt(sequence);
    // Nobody reads what it says, but that is no reason to lose it.
    else if (sequence.held) scheduler.hold(sequence, false);
    else {
      // Its rows were made while it attended to some of the others: a new prefill would differ.
      sequence.fail({
        code: "out_of_memory",
        message: "other sequences need the device's part of the KV cache, and there is no room " +
          "below it: give more with --kv-host or --kv-disk",
      });
    }
    if (sequence.slot !== null || report === null) return;
    // Whoever has the slot next has reports of its own.
    sequence.reportKv = () => ({ ...report, tiers: sequence.parked?.tiers ?? NOWHERE });
  }

  async #restore(sequence: Sequence): Promise<void> {
    const { reportKv } = sequence;
    await this.#begin(sequence);
    // Until its rows are back its slot knows nothing of what it did.
    const reportOfSlot = sequence.reportKv;
    sequence.reportKv = reportKv;
    await this.#options.runner.restore(sequence.slot!, sequence.parked!);
    sequence.reportKv = reportOfSlot;
    this.#options.scheduler.restored(sequence);
  }

  async #prefill(sequence: Sequence, count: number): Promise<void> {
    await this.#begin(sequence);
    if (sequence.cancelled) return;
    // Less may be left than when the step was planned: rows of before were found.
    const chunk = sequence.prefillChunk(Math.min(count, sequence.numPending));
    const began = performance.now();
    const result = await this.#options.runner.prefill(chunk);
    this.counts.stepSizes.add(chunk.tokens.length);
    // Also if nobody wants them any more: that is what they cost.
    this.counts.prefilled(sequence.newOf(chunk));
    this.#adaptChunk(chunk.tokens.length, performance.now() - began);
    if (sequence.cancelled || sequence.ended) return;
    if (result.sampled?.error !== undefined) return sequence.fail(result.sampled.error);
    if (result.sampled !== null) this.#checkToken(result.sampled);
    sequence.acceptPrefill(chunk, result, performance.now());
    await this.#options.prefixes.offer(sequence);
  }

  #adaptChunk(count: number, ms: number): void {
    const { chunkTarget } = this.#options;
    if (!chunkTarget) return;
    const next = nextChunk(this.#prefillChunk, count, ms, chunkTarget);
    if (next === this.#prefillChunk) return;
    this.#prefillChunk = next;
    this.#options.scheduler.setChunks(next, sharedChunkOf(next));
  }

  async #decode(sequences: readonly Sequence[]): Promise<void> {
    const results = await this.#options.runner.decode(
      sequences.map((sequence) => sequence.decodeRow()),
    );
    this.decodeSteps++;
    this.decodedRows += sequences.length;
    this.counts.stepSizes.add(sequences.length);
    if (results.length !== sequences.length) {
      throw new Error(`${results.length} tokens came back for ${sequences.length} sequences`);
    }
    results.forEach((sampled) => {
      if (sampled.error === undefined) this.#checkToken(sampled);
    });
    const nowMs = performance.now();
    const done: Sequence[] = [];
    for (let i = 0; i < sequences.length; i++) {
      const sequence = sequences[i]!;
      const sampled = results[i]!;
      if (sequence.cancelled || sequence.ended) continue;
      if (sampled.error !== undefined) sequence.fail(sampled.error);
      else sequence.acceptDecode(sampled, nowMs);
      if (sequence.ended && sampled.error === undefined) done.push(sequence);
    }
    // Their slots are released after this step.
    for (const sequence of done) await this.#options.prefixes.offer(sequence);
  }

  #checkToken({ token }: Sampled): void {
    if (!Number.isInteger(token) || token < 0 || token >= this.#options.vocabSize) {
      throw new Error(`the device chose token ${token}, which does not exist`);
    }
  }
}
