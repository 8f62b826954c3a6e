/**
 * Tells across isolates whether an engine moves. A device that hangs blocks its thread for ever, or
 * never calls back: nothing that the engine would have to say can tell that from a long step, so
 * what it completes is counted in memory that both sides share.
 *
 * @module
 */

const COUNT = 0;
const AT_WORK = 1;

/** What an engine completed, and whether it has anything to do. */
export class Pulse {
  readonly #words: Int32Array;

  /** @param shared 8 bytes; new ones by default. */
  constructor(readonly shared: SharedArrayBuffer = new SharedArrayBuffer(8)) {
    this.#words = new Int32Array(shared);
  }

  /** Something was completed: a step, a submission, a kernel, a part of the weights. */
  beat(): void {
    Atomics.add(this.#words, COUNT, 1);
  }

  /** From here on beats are to be expected, until {@linkcode rest}. */
  work(): void {
    Atomics.store(this.#words, AT_WORK, 1);
  }

  /** There is nothing to do, or only what is held. */
  rest(): void {
    Atomics.store(this.#words, AT_WORK, 0);
  }

  /** Wraps around. */
  get count(): number {
    return Atomics.load(this.#words, COUNT);
  }

  get isAtWork(): boolean {
    return Atomics.load(this.#words, AT_WORK) === 1;
  }
}

/** Looks in the time that an engine may go without a beat. */
const LOOKS = 8;

/**
 * Calls once when an engine is at work and nothing was completed for so long. Looks are counted and
 * not hours: a process that was stopped meanwhile, or an isolate that was busy, is no hang.
 */
export function watchPulse(pulse: Pulse, hangMs: number, onHang: () => void): Disposable {
  let seen = pulse.count;
  let still = 0;
  const end = () => clearInterval(timer);
  const timer = setInterval(() => {
    const { count, isAtWork } = pulse;
    still = isAtWork && count === seen ? still + 1 : 0;
    seen = count;
    if (still < LOOKS) return;
    end();
    onHang();
  }, hangMs / LOOKS);
  // Nobody waits for a hang: a program that is done may end.
  Deno.unrefTimer(timer);
  return { [Symbol.dispose]: end };
}
