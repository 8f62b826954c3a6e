/** Signals for a command that has to end in order. @module */
import type { CliIo, Interrupt } from "./io.ts";

/** A command has this long to end by itself before the process goes. */
const GRACE_MS = 4000;

/**
 * Ends the process when a command that was told to end has not done so in time.
 *
 * @param exitCode Exit code of a process that had to be ended.
 * @returns Disposing of it lifts the limit.
 */
export function exitLimit(
  io: Pick<CliIo, "exit">,
  exitCode: number,
  graceMs = GRACE_MS,
): Disposable {
  const timer = setTimeout(() => io.exit(exitCode), graceMs);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/** The state of an interrupt that was asked for. */
export interface InterruptGuard extends Disposable {
  readonly signal: AbortSignal;
  /** What was pressed or sent, if anything. */
  readonly received: Interrupt | undefined;
}

/**
 * Turns the first interrupt into an abort signal; the second one, or four seconds, end the process.
 *
 * @param exitCode Exit code of a process that had to be ended.
 * @param moreMs Asked at the interrupt: time beyond the four seconds.
 * @param lastWords Called before the process has to be ended; takes no time.
 */
export function interruptGuard(
  io: CliIo,
  exitCode: number,
  moreMs: () => number = () => 0,
  lastWords: () => void = () => {},
): InterruptGuard {
  const controller = new AbortController();
  const ending = {
    exit(code: number): never {
      try {
        lastWords();
      } finally {
        io.exit(code);
      }
    },
  };
  let received: Interrupt | undefined;
  let limit: Disposable | undefined;
  const listener = io.onInterrupt((signal) => {
    if (received !== undefined) ending.exit(exitCode);
    received = signal;
    limit = exitLimit(ending, exitCode, GRACE_MS + moreMs());
    controller.abort();
  });
  return {
    signal: controller.signal,
    get received() {
      return received;
    },
    [Symbol.dispose]() {
      limit?.[Symbol.dispose]();
      listener[Symbol.dispose]();
    },
  };
}
