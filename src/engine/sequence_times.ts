/** When a sequence came, got a slot, had its first token and ended. Milliseconds. Pure. @module */
import type { RequestTimings } from "./types.ts";

/** The parts of a sequence's life. */
export type SequencePhases = Pick<RequestTimings, "queueMs" | "promptMs" | "predictedMs">;

/** Times of a sequence, on the clock of `performance.now()`. */
export class SequenceTimes {
  readonly #arrivedMs: number;
  #admittedMs: number | null = null;
  #answeredMs: number | null = null;
  #endedMs: number | null = null;
  /** What {@linkcode takePhases} gave out. */
  #taken = { promptMs: 0, predictedMs: 0 };

  constructor(arrivedMs: number) {
    this.#arrivedMs = arrivedMs;
  }

  /** It got a slot; what comes back after a preemption had one before. */
  admitted(nowMs: number): void {
    this.#admittedMs ??= nowMs;
  }

  /** It has a token, or would have one if it wanted any. */
  answered(nowMs: number): void {
    this.#answeredMs ??= nowMs;
  }

  /** Nothing of it takes time any more. */
  ended(nowMs: number): void {
    this.#endedMs ??= nowMs;
  }

  /** Time since it got its slot. */
  sinceSlot(nowMs: number): number {
    return nowMs - (this.#admittedMs ?? nowMs);
  }

  /** Its parts so far. */
  phases(nowMs: number): SequencePhases {
    const end = this.#endedMs ?? nowMs;
    const admitted = this.#admittedMs;
    const answered = this.#answeredMs;
    return {
      queueMs: (admitted ?? end) - this.#arrivedMs,
      promptMs: admitted === null ? 0 : (answered ?? end) - admitted,
      predictedMs: answered === null ? 0 : end - answered,
    };
  }

  /** What its parts grew by since this was called last: all calls together give the whole. */
  takePhases(nowMs: number): Omit<SequencePhases, "queueMs"> {
    const { promptMs, predictedMs } = this.phases(nowMs);
    const before = this.#taken;
    this.#taken = { promptMs, predictedMs };
    return {
      promptMs: promptMs - before.promptMs,
      predictedMs: predictedMs - before.predictedMs,
    };
  }
}
