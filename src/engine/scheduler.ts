/**
 * What the engine does next. Pure: it knows sequences and room in the cache, and nothing of
 * devices, time or events.
 *
 * Sequences run in order of arrival. All that run are older than all that wait, also after a
 * preemption, so the oldest one always gets on and nobody waits for ever.
 *
 * @module
 */
import type { KvCache } from "../kv/types.ts";
import type { Sequence } from "./sequence.ts";

/** Settings of a {@linkcode Scheduler}. */
export interface SchedulerOptions {
  /** Slots: sequences that run at once. */
  readonly maxSequences: number;
  /** Tokens of a prefill chunk at most. */
  readonly prefillChunk: number;
  /** The same while other sequences decode: what a running stream may have to wait for. */
  readonly sharedPrefillChunk: number;
  /** Decode steps between two prefill chunks while there is need for both. */
  readonly decodesPerPrefill: number;
}

/**
 * The next thing to run. `refuse`: the cache has no room for the sequence although no other one
 * runs; it was removed.
 */
export type Step =
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

  /** Forgets a sequence and frees its slot and pages; one that is unknown is left alone. */
  remove(sequence: Sequence): void {
    if (sequence.slot !== null) this.#evict(sequence);
    else this.#waiting = this.#waiting.filter((other) => other !== sequence);
  }

  /** Decides the next step and makes room for it; null when there is nothing to do. */
  next(nowMs: number): Step | null {
    this.#admit(nowMs);
    const prefill = this.#nextPrefill();
    const decoding = this.#running.some((sequence) => sequence.decodes);
    if (!decoding) {
      if (prefill !== null) return this.#prefillStep(prefill, this.#options.prefillChunk);
      return this.#refuseHead();
    }
    if (prefill !== null && this.#decodesSincePrefill >= this.#options.decodesPerPrefill) {
      const { prefillChunk, sharedPrefillChunk } = this.#options;
      return this.#prefillStep(prefill, Math.min(prefillChunk, sharedPrefillChunk));
    }
    return this.#decodeStep() ?? this.next(nowMs);
  }

  /**
   * Checks the bookkeeping; for tests.
   *
   * @throws {Error} If an invariant is broken.
   */
  checkInvariants(): void {
    const all = this.sequences();
    for (let i = 1; i < all.length; i++) {
      assertScheduler(all[i - 1]!.arrival < all[i]!.arrival, "not in order of arrival");
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
    for (let head = this.#waiting[0]; head !== undefined; head = this.#waiting[0]) {
      const slot = this.#slots.indexOf(null);
      if (slot < 0) return;
      const numRows = Math.min(head.numTokens + 1, head.maxRows);
      if (!this.#kv.canReserve(slot, numRows)) return;
      if (head.preempted && !this.#hasSlack(numRows)) return;
      this.#kv.reserve(slot, numRows);
      this.#waiting.shift();
      this.#slots[slot] = head;
      this.#running.push(head);
      this.#prefillTurns.push(head);
      head.admit(slot, nowMs);
    }
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
      if (!head.decodes) return head;
      this.#prefillTurns.shift();
    }
    return null;
  }

  /** Long prompts take turns, so that a short one does not wait for all of a long one. */
  #prefillStep(sequence: Sequence, most: number): Step {
    this.#decodesSincePrefill = 0;
    this.#prefillTurns.shift();
    this.#prefillTurns.push(sequence);
    return { kind: "prefill", sequence, count: Math.min(sequence.numPending, most) };
  }

  /** Null if every decoding sequence had to give way. */
  #decodeStep(): Step | null {
    const sequences: Sequence[] = [];
    for (const sequence of [...this.#running]) {
      if (sequence.slot === null || !sequence.decodes) continue;
      if (this.#makeRoom(sequence)) sequences.push(sequence);
    }
    if (sequences.length === 0) return null;
    this.#decodesSincePrefill++;
    return { kind: "decode", sequences };
  }

  /**
   * Reserves the row of the newest token. While there is no room the youngest running sequence
   * gives up its own and goes back to the head of the queue.
   *
   * @returns Whether the sequence still runs.
   */
  #makeRoom(sequence: Sequence): boolean {
    const slot = sequence.slot;
    while (slot !== null && sequence.slot === slot) {
      if (this.#kv.canReserve(slot, sequence.numTokens)) {
        this.#kv.reserve(slot, sequence.numTokens);
        return true;
      }
      const youngest = this.#running.at(-1);
      assertScheduler(youngest !== undefined, "nobody runs");
      this.#evict(youngest);
      youngest.preempt();
      this.#waiting.unshift(youngest);
    }
    return false;
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
    const sequence = this.#waiting.shift();
    return sequence === undefined ? null : { kind: "refuse", sequence };
  }
}

function assertScheduler(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`scheduler: ${message}`);
}
