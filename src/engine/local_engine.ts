/**
 * The engine itself, in the isolate that it is made in: takes requests, runs one step after the
 * other, hands out events.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import { type KvSettings, KvSettingsError, mergeKv, resolveKv } from "../butler/settings.ts";
import type { KvCache } from "../kv/types.ts";
import { EventStream } from "./event_stream.ts";
import { schedulingOf } from "./chunk_sizes.ts";
import { loadOf } from "./load.ts";
import type { LocalEngineParts } from "./local_engine_parts.ts";
import { LogitRules } from "./logit_rules.ts";
import { PrefixUse } from "./prefixes.ts";
import type { Pulse } from "./pulse.ts";
import { Scheduler, type Step } from "./scheduler.ts";
import { SlotConversations } from "./slot_conversations.ts";
import { type EmitEvent, Sequence } from "./sequence.ts";
import { goneError, isExpected, messageOf, stepError } from "./step_errors.ts";
import { sequencesOf, StepRunner } from "./step_runner.ts";
import { timedTurn, type Turn } from "./turn.ts";
import type {
  Engine,
  EngineErrorData,
  EngineEvent,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerateRequest,
  SlotReply,
  SlotRequest,
} from "./types.ts";
import { findRequestFault } from "./validate.ts";

/** A request that was taken in. */
export interface Submitted {
  cancel(): void;
  hold(held: boolean): void;
}

/** Runs requests on a {@linkcode Runner}. */
export class LocalEngine implements Engine {
  readonly info: EngineInfo;
  readonly lost: Promise<EngineErrorData>;
  readonly #lost = Promise.withResolvers<EngineErrorData>();
  readonly #kv: KvCache;
  readonly #scheduler: Scheduler;
  readonly #prefixes: PrefixUse;
  readonly #steps: StepRunner;
  readonly #parts: LocalEngineParts;
  readonly #conversations: SlotConversations;
  /** Requests that are neither ended nor cancelled. */
  readonly #live = new Map<string, Sequence>();
  /** Sequences of the step that is on the device now. */
  #inStep: readonly Sequence[] = [];
  #loop: Promise<void> | null = null;
  #turn: Turn = timedTurn();
  #pulse: Pulse | null = null;
  /** Why nothing is taken in any more. */
  #broken: EngineErrorData | null = null;
  #closing: Promise<void> | null = null;
  #settling: Promise<void> | null = null;
  #numArrivals = 0;

  constructor(parts: LocalEngineParts) {
    this.info = parts.info;
    this.lost = this.#lost.promise;
    this.#parts = parts;
    this.#kv = parts.kv;
    this.#conversations = new SlotConversations(
      parts.conversations ?? null,
      parts.info.maxSequences,
      parts.info.contextLength,
    );
    this.#prefixes = new PrefixUse(parts.prefixes ?? null);
    this.#scheduler = new Scheduler(parts.kv, {
      ...schedulingOf(parts.info),
      ...parts.scheduling,
    });
    this.#steps = new StepRunner({
      runner: parts.runner,
      scheduler: this.#scheduler,
      prefixes: this.#prefixes,
      vocabSize: parts.info.model.vocabSize,
      prefillChunk: parts.info.prefillChunk,
      chunkTarget: parts.chunkTarget ?? null,
    });
  }

  generate(request: GenerateRequest): AsyncIterableIterator<EngineEvent> {
    let cancel = () => {};
    const stream = new EventStream(() => cancel());
    ({ cancel } = this.submit(request, (event) => stream.push(event)));
    return stream;
  }

  /**
   * {@linkcode generate} for callers that pass events on themselves.
   *
   * @param emit Gets the events as they happen, those of one step without a pause between them.
   *   A refused request gets its `error` before this returns.
   * @returns Acts on the request; harmless once it has ended.
   */
  submit(request: GenerateRequest, emit: EmitEvent): Submitted {
    const error = this.#refusal(request);
    const kv = error === null ? this.#resolveKv(request) : null;
    if (error !== null || kv === null || "error" in kv) {
      emit({ type: "error", error: error ?? (kv as { error: EngineErrorData }).error });
      return { cancel() {}, hold() {} };
    }
    const sequence = new Sequence(
      request,
      kv,
      this.#numArrivals++,
      new LogitRules(request),
      emit,
      performance.now(),
    );
    this.#live.set(request.id, sequence);
    this.#scheduler.submit(sequence);
    this.#loop ??= this.#run();
    return {
      cancel: () => this.#cancel(sequence),
      hold: (held) => this.#hold(sequence, held),
    };
  }

  cancel(id: string): void {
    const sequence = this.#live.get(id);
    if (sequence !== undefined) this.#cancel(sequence);
  }

  hold(id: string, held: boolean): void {
    const sequence = this.#live.get(id);
    if (sequence !== undefined) this.#hold(sequence, held);
  }

  stats(): Promise<EngineStats> {
    return Promise.resolve(loadOf({
      kv: this.#kv,
      scheduler: this.#scheduler,
      steps: this.#steps,
      conversations: this.#conversations,
      tierLoads: this.#parts.tierLoads,
    }));
  }

  slot(request: SlotRequest): Promise<SlotReply> {
    if (this.#broken !== null) return Promise.reject(goneError(this.#broken));
    const { slots } = this.#scheduler;
    const reply = this.#conversations.order(request, (slot) => (slots[slot] ?? null) !== null);
    this.#loop ??= this.#run();
    return reply;
  }

  /** Sets how the loop lets messages in between two steps, and who is told that it moves. */
  setTurn(turn: Turn, pulse: Pulse | null = null): void {
    this.#turn = turn;
    this.#pulse = pulse;
  }

  /** Ends everything with an error and refuses what comes later. */
  markLost(message: string): void {
    this.#break({ code: "device_lost", message });
    for (const sequence of this.#scheduler.sequences()) {
      if (!this.#inStep.includes(sequence)) this.#drop(sequence);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  settle(): Promise<void> {
    this.#settling ??= this.#settle();
    return this.#settling;
  }

  async #close(): Promise<void> {
    await this.#stop();
    await this.#parts.dispose();
  }

  async #settle(): Promise<void> {
    await this.#stop();
    if (this.#closing === null) this.#parts.settle?.();
  }

  async #stop(): Promise<void> {
    this.#broken ??= { code: "engine_closed", message: "the engine is closed" };
    for (const sequence of this.#scheduler.sequences()) this.#cancel(sequence);
    this.#conversations.giveUp(goneError(this.#broken));
    // A step on a lost device may never come back.
    if (this.#broken.code !== "device_lost") await this.#loop;
  }

  #refusal(request: GenerateRequest): EngineErrorData | null {
    if (this.#broken !== null) return this.#broken;
    const fault = findRequestFault(request, this.info);
    if (fault !== null) return fault;
    if (this.#live.has(request.id)) {
      return { code: "invalid_request", message: `id ${request.id} is in use by a live request` };
    }
    return null;
  }

  /** Decides, from the request alone, how the rows of a sequence are kept and selected. */
  #resolveKv(
    request: GenerateRequest,
  ):
    | { readonly settings: KvSettings; readonly notes: readonly string[] }
    | { readonly error: EngineErrorData } {
    const { kvPlanner, info: { kv, model } } = this.#parts;
    const maxRows = request.promptIds.length + Math.max(0, request.maxTokens - 1);
    try {
      const said = mergeKv(kv.defaults, request.kv ?? {});
      const situation = { ...kv, fits: kvPlanner.fits(maxRows) };
      const { settings, notes } = resolveKv(said, model, situation);
      const refusal = kvPlanner.refusal({ numRows: maxRows, maxRows, settings });
      if (refusal === null) return { settings, notes };
      return { error: { code: "out_of_memory", message: refusal, lasting: true } };
    } catch (error) {
      if (!(error instanceof KvSettingsError)) throw error;
      return { error: { code: "invalid_request", message: error.message, param: error.param } };
    }
  }

  #cancel(sequence: Sequence): void {
    if (sequence.ended || sequence.cancelled) return;
    this.#forget(sequence);
    // What the device works on keeps its pages until it is done.
    if (this.#inStep.includes(sequence)) sequence.cancelled = true;
    else this.#end(sequence, "cancelled");
  }

  #hold(sequence: Sequence, held: boolean): void {
    if (sequence.ended || sequence.cancelled) return;
    this.#scheduler.hold(sequence, held);
    if (!held) this.#loop ??= this.#run();
  }

  /** Steps until there is nothing to do. */
  async #run(): Promise<void> {
    this.#pulse?.work();
    for (;;) {
      this.#pulse?.beat();
      // Cancels and new requests that lie waiting count from this step on.
      await this.#turn();
      try {
        const step = this.#scheduler.next(performance.now());
        this.#conversations.turn();
        if (step !== null) await this.#runStep(step);
        else if (this.#conversations.isBusy) continue;
        // Nobody waits. Who closes the engine saves the rest.
        else if (this.#broken !== null || !this.#prefixes.save()) break;
      } catch (error) {
        // Only the bookkeeping can fail here, and nothing of it can be trusted after that.
        this.#report(error);
        this.#break({ code: "internal", message: messageOf(error) });
        break;
      }
    }
    this.#loop = null;
    this.#pulse?.rest();
    if (this.#broken !== null) this.#conversations.giveUp(goneError(this.#broken));
  }

  async #runStep(step: Step): Promise<void> {
    if (step.kind === "refuse") {
      this.#drop(step.sequence);
      step.sequence.fail({
        code: "out_of_memory",
        message: `the KV cache has no room for ${step.sequence.numTokens} tokens and one more`,
      });
      return;
    }
    const sequences = sequencesOf(step);
    this.#inStep = sequences;
    try {
      await this.#steps.run(step);
    } catch (error) {
      this.#failStep(sequences, error);
    }
    this.#inStep = [];
    const nowMs = performance.now();
    for (const sequence of sequences) {
      this.#steps.counts.wentOn(sequence.takeProgress(nowMs));
      if (sequence.ended) this.#drop(sequence);
      else if (sequence.cancelled) this.#end(sequence, "cancelled");
    }
  }

  /** A step that failed takes its own requests with it; a lost device takes all. */
  #failStep(sequences: readonly Sequence[], error: unknown): void {
    if (error instanceof DeviceError && error.code === "lost") return this.markLost(error.message);
    if (!isExpected(error)) this.#report(error);
    for (const sequence of sequences) sequence.fail(stepError(error));
  }

  #break(error: EngineErrorData): void {
    this.#broken = error;
    for (const sequence of this.#scheduler.sequences()) sequence.fail(error);
    this.#live.clear();
    // Closing an engine destroys its device: that is no loss.
    if (this.#closing === null) this.#lost.resolve(error);
  }

  #end(sequence: Sequence, reason: FinishReason): void {
    // While its slot is its own: what it says of its rows is asked there.
    sequence.finish(reason, performance.now());
    this.#drop(sequence);
  }

  #drop(sequence: Sequence): void {
    const { counts } = this.#steps;
    counts.wentOn(sequence.takeProgress(performance.now()));
    counts.left(sequence.reportKv());
    this.#conversations.leaves(sequence);
    this.#scheduler.remove(sequence);
    sequence.parked?.[Symbol.dispose]();
    sequence.parked = null;
    this.#forget(sequence);
  }

  /** Frees the id. After a cancel it may be somebody else's already. */
  #forget(sequence: Sequence): void {
    const { id } = sequence.request;
    if (this.#live.get(id) === sequence) this.#live.delete(id);
  }

  #report(error: unknown): void {
    this.#parts.onInternalError?.(error);
  }
}
