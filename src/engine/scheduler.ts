/**
 * What the engine does next. Pure: it knows sequences and room in the cache, and nothing of
 * devices, time or events.
 *
 * Sequences run in order of arrival. All that run are older than all that wait, also after a
 * preemption, so the oldest one always gets on and nobody waits for ever. Only those that are held go
 * out of this order: they keep their place, and others go past them.
 *
 * @module
 */
import type { KvCache } from "../kv/types.ts";
import type { ParkedRows } from "./runner_types.ts";
import type { Sequence } from "./sequence.ts";

/**
 * Prefill steps between two decode steps at most. However short a prompt is, its step takes as long
 * as the weights take to be read: about as long as a decode step.
 */
const MOST_PROMPTS = 4;

/** Settings of a {@linkcode Scheduler}. */
export interface SchedulerOptions {
  /** Slots: sequences that run at once. */
  readonly maxSequences: number;
  /** Tokens of a prefill chunk at most. */
  readonly prefillChunk: number;
  /**
   * The same while other sequences decode: what a running stream may have to wait for. Short prompts
   * share it.
   */
  readonly sharedPrefillChunk: number;
  /** Decode steps between two prefill chunks while there is need for both. */
  readonly decodesPerPrefill: number;
}

/**
 * The next thing to run. `refuse`: the cache has no room for the sequence although no other one
 * runs; it was removed. `park`: the sequence gives up its slot for those before it; answered by
 * {@linkcode Scheduler.parked} or {@linkcode Scheduler.preempt}. `restore`: a parked one has a slot
 * again; answered by {@linkcode Scheduler.restored}.
 */
export type Step =
  | { readonly kind: "park"; readonly sequence: Sequence }
  | { readonly kind: "restore"; readonly sequence: Sequence }
  | { readonly kind: "prefill"; readonly sequence: Sequence; readonly count: number }
  | { readonly kind: "decode"; readonly sequences: readonly Sequence[] }
  | { readonly kind: "refuse"; readonly sequence: Sequence };

/** Queue, running set and room of sequences. */
export class Scheduler {
  readonly #kv: KvCache;
  #options: SchedulerOptions;
  /** Oldest first. */
  #waiting: Sequence[] = [];
  /** Oldest first; each has a slot. */
  #running: Sequence[] = [];
  /** Those of the running that are not decoding, in the order of their turns. */
  #prefillTurns: Sequence[] = [];
  readonly #slots: (Sequence | null)[];
  #decodesSincePrefill = 0;
  /** Part of the shared chunk that was used since the last decode step, in tokens. */
  #prefilledSinceDecode = 0;

  /** @throws {RangeError} If a setting is not a positive integer. */
  constructor(kv: KvCache, options: SchedulerOptions) {
    for (const [name, value] of Object.entries(options)) {
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new RangeError(`scheduler: ${name} must be a positive integer, not ${value}`);
      }
    }
    this.#kv = kv;
    this.#options = options;
    this.#slots = new Array<Sequence | null>(options.maxSequences).fill(null);
  }

  get numRunning(): number {
    return this.#running.length;
  }

  get numWaiting(): number {
    return this.#waiting.length;
  }

  get numParked(): number {
    return this.#waiting.filter((sequence) => sequence.parked !== null).length;
  }

  /** Who has each slot. */
  get slots(): readonly (Sequence | null)[] {
    return this.#slots;
  }

  /** Other sizes of prefill chunks from the next one on. */
  setChunks(prefillChunk: number, sharedPrefillChunk: number): void {
    this.#options = { ...this.#options, prefillChunk, sharedPrefillChunk };
  }

  /** Every sequence that was submitted and not removed, oldest first. */
  sequences(): Sequence[] {
    return [...this.#running, ...this.#waiting];
  }

  /** Puts a sequence at the end of the queue. */
  submit(sequence: Sequence): void {
    const newest = this.#waiting.at(-1) ?? this.#running.at(-1);
    assertScheduler(newest === undefined || newest.arrival < sequence.arrival, "out of order");
    this.#waiting.push(sequence);
  }

  /**
   * Holds a sequence or lets it go on. A held one keeps its rows on the device until somebody waits
   * for the room.
   */
  hold(sequence: Sequence, held: boolean): void {
    sequence.held = held;
    sequence.wasHeld ||= held;
  }

  /** Forgets a sequence and frees its slot and pages; one that is unknown is left alone. */
  remove(sequence: Sequence): void {
    if (sequence.slot !== null) this.#evict(sequence);
    else this.#leaveQueue(sequence);
  }

  /** Decides the next step and makes room for it; null when there is nothing to do. */
  next(nowMs: number): Step | null {
    this.#admit(nowMs);
    const idle = this.#idleHeld();
    if (idle !== undefined) return { kind: "park", sequence: idle };
    const restore = this.#running.find((sequence) => sequence.parked !== null);
    if (restore !== undefined) return { kind: "restore", sequence: restore };
    const prefill = this.#nextPrefill();
    const decoding = this.#running.some((sequence) => sequence.decodes && !sequence.held);
    if (!decoding) {
      if (prefill !== null) return this.#prefillStep(prefill, this.#options.prefillChunk);
      return this.#running.length > 0 ? null : this.#refuseHead();
    }
    if (prefill !== null && this.#isTurnOf(prefill)) {
      const { prefillChunk, sharedPrefillChunk } = this.#options;
      return this.#prefillStep(prefill, Math.min(prefillChunk, sharedPrefillChunk));
    }
    return this.#decodeStep();
  }

  /**
   * Whether a prompt goes on before the next decode step: there were enough of those since the last
   * one, or it fits whole into what prompts before it have left of the shared chunk. Of prompts that
   * come together each would otherwise wait for a decode step more than the one before it.
   */
  #isTurnOf({ numPending }: Sequence): boolean {
    const { decodesPerPrefill, sharedPrefillChunk } = this.#options;
    if (this.#decodesSincePrefill > 0) return this.#decodesSincePrefill >= decodesPerPrefill;
    return this.#prefilledSinceDecode + this.#shareOf(numPending) <= sharedPrefillChunk;
  }

  /** What a prefill step uses of the shared chunk, in tokens. */
  #shareOf(count: number): number {
    return Math.max(count, Math.ceil(this.#options.sharedPrefillChunk / MOST_PROMPTS));
  }

  /** A sequence's rows were brought to a lower tier: it waits at the head of the queue. */
  parked(sequence: Sequence, rows: ParkedRows): void {
    this.#evict(sequence);
    sequence.park(rows);
    this.#queue(sequence);
  }

  /** A sequence loses its rows, and waits at the head of the queue to be prefilled again. */
  preempt(sequence: Sequence): void {
    this.#evict(sequence);
    sequence.preempt();
    this.#queue(sequence);
  }

  /** A sequence's rows are back. */
  restored(sequence: Sequence): void {
    sequence.restored();
  }

  /**
   * Checks the bookkeeping; for tests.
   *
   * @throws {Error} If an invariant is broken.
   */
  checkInvariants(): void {
    const inTurn = this.sequences().filter((sequence) => !sequence.wasHeld);
    for (const list of [inTurn, this.#running, this.#waiting]) {
      for (let i = 1; i < list.length; i++) {
        assertScheduler(list[i - 1]!.arrival < list[i]!.arrival, "not in order of arrival");
      }
    }
    for (const sequence of this.#running) {
      assertScheduler(sequence.slot !== null, "a running sequence has no slot");
      assertScheduler(this.#slots[sequence.slot] === sequence, "a slot has another sequence");
    }
    for (const sequence of this.#waiting) {
      assertScheduler(sequence.slot === null, "a waiting sequence has a slot");
    }
    assertScheduler(
      this.#slots.filter((taken) => taken !== null).length === this.#running.length,
      "a slot is taken by no running sequence",
    );
  }

  #admit(nowMs: number): void {
    for (let head = this.#head(); head !== undefined; head = this.#head()) {
      const slot = this.#slots.indexOf(null);
      if (slot < 0) return;
      const { need } = head;
      if (!this.#kv.canBegin(slot, need)) return;
      if (head.preempted && !this.#hasSlack(need.numRows)) return;
      this.#kv.begin(slot, need);
      this.#leaveQueue(head);
      this.#slots[slot] = head;
      this.#running.push(head);
      if (head.wasHeld) this.#running.sort((one, other) => one.arrival - other.arrival);
      this.#prefillTurns.push(head);
      head.admit(slot, nowMs);
    }
  }

  /** Who waits for longest and would go on. */
  #head(): Sequence | undefined {
    return this.#waiting.find((sequence) => !sequence.held);
  }

  /** Back into the queue, where its arrival puts it: at the head, unless one was held before. */
  #queue(sequence: Sequence): void {
    const at = this.#waiting.findIndex(({ arrival }) => arrival > sequence.arrival);
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, sequence);
  }

  #leaveQueue(sequence: Sequence): void {
    this.#waiting = this.#waiting.filter((other) => other !== sequence);
  }

  /** The youngest of the held ones that others wait for. */
  #idleHeld(): Sequence | undefined {
    if (this.#head() === undefined) return undefined;
    return this.#running.findLast((sequence) => sequence.held && sequence.parked === null);
  }

  /**
   * Whether each running sequence could still grow by a page. One that was preempted comes back
   * only then, else it would be taken out again as soon as it is prefilled.
   */
  #hasSlack(numRows: number): boolean {
    const { numPages, pagesInUse, pageSize } = this.#kv.usage;
    const left = numPages - pagesInUse - Math.ceil(numRows / pageSize);
    return this.#running.length === 0 || left >= this.#running.length;
  }

  #nextPrefill(): Sequence | null {
    for (let head = this.#prefillTurns[0]; head !== undefined; head = this.#prefillTurns[0]) {
      if (!head.decodes) break;
      this.#prefillTurns.shift();
    }
    return this.#prefillTurns.find((sequence) => !sequence.decodes && !sequence.held) ?? null;
  }

  /** Long prompts take turns, so that a short one does not wait for all of a long one. */
  #prefillStep(sequence: Sequence, most: number): Step {
    const count = Math.min(sequence.numPending, most);
    this.#decodesSincePrefill = 0;
    this.#prefilledSinceDecode += this.#shareOf(count);
    this.#prefillTurns = this.#prefillTurns.filter((other) => other !== sequence);
    this.#prefillTurns.push(sequence);
    return { kind: "prefill", sequence, count };
  }

  /**
   * Reserves the rows of the newest tokens. While there is no room the youngest running sequence
   * has to give up its own.
   */
  #decodeStep(): Step {
    const sequences = this.#running.filter((sequence) => sequence.decodes && !sequence.held);
    for (const sequence of sequences) {
      const { slot, numTokens } = sequence;
      assertScheduler(slot !== null, "a running sequence has no slot");
      if (!this.#kv.canReserve(slot, numTokens)) return this.#giveWay();
      this.#kv.reserve(slot, numTokens);
    }
    this.#decodesSincePrefill++;
    this.#prefilledSinceDecode = 0;
    return { kind: "decode", sequences };
  }

  #giveWay(): Step {
    const sequence = this.#running.findLast(({ held }) => held) ?? this.#running.at(-1);
    assertScheduler(sequence !== undefined, "nobody runs");
    if (this.#running.length > 1) return { kind: "park", sequence };
    this.#evict(sequence);
    return { kind: "refuse", sequence };
  }

  #evict(sequence: Sequence): void {
    const slot = sequence.slot;
    assertScheduler(slot !== null && this.#slots[slot] === sequence, "the slot is not its own");
    this.#kv.release(slot);
    this.#slots[slot] = null;
    sequence.slot = null;
    this.#running = this.#running.filter((other) => other !== sequence);
    this.#prefillTurns = this.#prefillTurns.filter((other) => other !== sequence);
  }

  #refuseHead(): Step | null {
    assertScheduler(this.#running.length === 0, "a running sequence has nothing to do");
    const sequence = this.#head();
    if (sequence === undefined) return null;
    this.#leaveQueue(sequence);
    return { kind: "refuse", sequence };
  }
}

function assertScheduler(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`scheduler: ${message}`);
}
