/**
 * Turns of the event loop between two steps, as cheap as they can be had while messages still get
 * in.
 *
 * In Deno an isolate that keeps itself busy is slow to notice what comes from outside. Measured in
 * a worker that computes 4 ms at a time: after a `setImmediate` turn (4 us) a message may lie for
 * another 25 turns, after a MessageChannel turn (7 us) for 60, after a wait for another thread
 * (a digest, 25 us) mostly for none but at times for 129. `setTimeout(0)` lets it in at once and
 * costs 2.1 ms. So the cheap turn is taken, and taken again while something is known to lie there.
 *
 * @module
 */
import { setImmediate } from "node:timers";

/** Lets what is ready have its turn, between two steps of a loop. */
export type Turn = () => Promise<void>;

/** Time after which a turn is a thorough one where nothing tells what lies waiting. */
const THOROUGH_EVERY_MS = 100;

/** Longest that {@linkcode bellTurn} waits for a message that was announced. */
const ANNOUNCED_WITHIN_MS = 50;

function cheapTurn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/** Turns for an isolate that cannot know what waits: a thorough one ten times a second. */
export function timedTurn(): Turn {
  let thoroughAt = performance.now();
  return async () => {
    if (performance.now() - thoroughAt < THOROUGH_EVERY_MS) return await cheapTurn();
    await new Promise((resolve) => setTimeout(resolve));
    thoroughAt = performance.now();
  };
}

/** Counts what was sent to another isolate, in memory that both share. */
export class MessageBell {
  readonly #count: Int32Array;

  /** @param shared 4 bytes; new ones by default. */
  constructor(readonly shared: SharedArrayBuffer = new SharedArrayBuffer(4)) {
    this.#count = new Int32Array(shared);
  }

  /** A message was sent. */
  ring(): void {
    Atomics.add(this.#count, 0, 1);
  }

  /** Messages that were sent. Wraps around. */
  get numSent(): number {
    return Atomics.load(this.#count, 0);
  }
}

/** Turns that last until every message that was sent is received. */
export function bellTurn(bell: MessageBell, numReceived: () => number): Turn {
  return async () => {
    await cheapTurn();
    if (bell.numSent === (numReceived() | 0)) return;
    // Bounded: a count that is wrong must not stop the engine.
    const giveUpAt = performance.now() + ANNOUNCED_WITHIN_MS;
    while (bell.numSent !== (numReceived() | 0) && performance.now() < giveUpAt) await cheapTurn();
  };
}
