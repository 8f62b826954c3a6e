/**
 * How many sequences the server has taken on. What the engine has no place for waits; when enough
 * wait, nobody else is let in. Pure but for the clock, which the caller may bring.
 *
 * @module
 */
import { queueFull, tooManySequences } from "./refusals.ts";

/** Weight of the latest request in the mean time of one. */
const LATEST = 0.2;
/** Bounds of the seconds after which a refused client is asked to come again. */
const MIN_RETRY_S = 1;
const MAX_RETRY_S = 30;

/** Counts sequences that run or wait. */
export class Admission {
  #numTaken = 0;
  #meanMs = 0;

  /**
   * @param maxQueue Sequences that may wait.
   * @param nowMs Clock.
   */
  constructor(
    private readonly maxQueue: number,
    private readonly nowMs: () => number = () => performance.now(),
  ) {}

  /** Sequences that were taken on and have not ended. */
  get numTaken(): number {
    return this.#numTaken;
  }

  /** Whether one more sequence would be taken on by an engine of so many places. */
  isOpen(numPlaces: number): boolean {
    return this.#numTaken < numPlaces + this.maxQueue;
  }

  /**
   * Takes on the sequences of a request, all or none.
   *
   * @param n Answers to each of its prompts, for the message.
   * @returns Gives them back; harmless when called again.
   * @throws {RequestError} 429 while there is no room; 400 if there never can be.
   */
  admit(numSequences: number, numPlaces: number, n = 1): () => void {
    const most = numPlaces + this.maxQueue;
    if (numSequences > most) throw tooManySequences(numSequences, n, most);
    if (this.#numTaken + numSequences > most) throw this.refusal(numPlaces);
    this.#numTaken += numSequences;
    const began = this.nowMs();
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#numTaken -= numSequences;
      const ms = this.nowMs() - began;
      this.#meanMs = this.#meanMs === 0 ? ms : this.#meanMs + LATEST * (ms - this.#meanMs);
    };
  }

  /** 429 that says when to come again: when about one of those that run has ended. */
  refusal(numPlaces: number): ReturnType<typeof queueFull> {
    const running = Math.max(1, Math.min(this.#numTaken, numPlaces));
    const seconds = Math.ceil(this.#meanMs / running / 1000);
    return queueFull(Math.min(MAX_RETRY_S, Math.max(MIN_RETRY_S, seconds)));
  }
}
