/** Ctrl-C for commands that run once. @module */
import { type CliIo, type Interrupt, interruptCode } from "./io.ts";

/** A command has this long to end by itself before the process goes. */
const GRACE_MS = 4000;

/** The state of an interrupt that was asked for. */
export interface InterruptGuard extends Disposable {
  readonly signal: AbortSignal;
  /** What was pressed or sent, if anything. */
  readonly received: Interrupt | undefined;
  /** Waits for something that cannot be stopped; undefined when the interrupt comes first. */
  orInterrupt<T>(work: Promise<T>): Promise<T | undefined>;
}

/**
 * Turns the first interrupt into an abort signal; the second one, or four seconds, end the process.
 *
 * @param exitCode Exit code of a process that had to be ended.
 */
export function interruptGuard(
  io: CliIo,
  exitCode: (signal: Interrupt) => number = interruptCode,
): InterruptGuard {
  const controller = new AbortController();
  const interrupted = Promise.withResolvers<undefined>();
  let received: Interrupt | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const listener = io.onInterrupt((signal) => {
    if (received !== undefined) io.exit(exitCode(received));
    received = signal;
    timer = setTimeout(() => io.exit(exitCode(signal)), GRACE_MS);
    controller.abort();
    interrupted.resolve(undefined);
  });
  return {
    signal: controller.signal,
    get received() {
      return received;
    },
    orInterrupt(work) {
      return Promise.race([work, interrupted.promise]);
    },
    [Symbol.dispose]() {
      clearTimeout(timer);
      listener[Symbol.dispose]();
    },
  };
}
