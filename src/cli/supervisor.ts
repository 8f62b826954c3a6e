/**
 * Starts a process again when it fails, with growing pauses. Some losses of a device end the whole
 * process, and none of its own code can help then.
 *
 * @module
 */
import { type CliIo, EXIT, type Interrupt } from "./io.ts";

/** How a process ended. */
export interface ProcessEnd {
  readonly code: number;
  /** What ended it, if it was a signal. */
  readonly signal: string | null;
}

/** A process that was started. */
export interface ChildProcess {
  readonly pid: number;
  readonly ended: Promise<ProcessEnd>;
  /** Harmless once it has ended. */
  signal(name: Interrupt): void;
}

/** What a supervisor works with. */
export interface SupervisorParts {
  readonly start: () => ChildProcess;
  /** Calls the handler at each interrupt until the answer is disposed of. */
  readonly onInterrupt: (handler: (signal: Interrupt) => void) => Disposable;
  readonly say: (line: string, isTrouble: boolean) => void;
  readonly nowMs: () => number;
  /** Ends early when the signal fires. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
}

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;
/** A process that ran for so long was well: whatever comes then is a new trouble. */
const STEADY_MS = 60_000;
/**
 * Starts of a process that was never well, before nobody waits for it any longer: with the pauses
 * between them some four minutes, far more than a server takes that still drains and has the port.
 */
const FIRST_STARTS = 10;

/** The pause after a process that ran for so long, where the one before it was so long. */
export function nextPause(lastMs: number | null, ranMs: number): number {
  if (lastMs === null || ranMs >= STEADY_MS) return FIRST_PAUSE_MS;
  return Math.min(LONGEST_PAUSE_MS, lastMs * 2);
}

/** Variable of a process that another one looks after. */
export const SUPERVISED = "TOKENBUTLER_SUPERVISED";

/**
 * Surroundings in which the end of the supervisor is an interrupt: a server that nobody looks after
 * any more would keep the port from the next one.
 */
export function endingWithSupervisor(io: CliIo): CliIo {
  if (io.env(SUPERVISED) !== "1") return io;
  const handlers = new Set<(signal: Interrupt) => void>();
  void (async () => {
    for await (const _ of io.stdinLines());
    for (const handler of [...handlers]) handler("SIGTERM");
  })();
  return {
    ...io,
    onInterrupt(handler) {
      const own = io.onInterrupt(handler);
      handlers.add(handler);
      return {
        [Symbol.dispose]() {
          handlers.delete(handler);
          own[Symbol.dispose]();
        },
      };
    },
  };
}

/**
 * Runs a process until it ends well, is told to end, or says that what was asked for cannot work:
 * none of these would be different the next time. One that was never well is started so often and no
 * more; one that was is started for ever. Interrupts go on to the process.
 *
 * @returns The exit code.
 */
export async function supervise(parts: SupervisorParts): Promise<number> {
  const ending = new AbortController();
  let child: ChildProcess | undefined;
  using _listener = parts.onInterrupt((name) => {
    ending.abort();
    child?.signal(name);
  });
  let pauseMs: number | null = null;
  let wasWell = false;
  for (let starts = 1;; starts++) {
    const began = parts.nowMs();
    child = parts.start();
    parts.say(`process ${child.pid} serves`, false);
    const { code, signal } = await child.ended;
    if (ending.signal.aborted || code === EXIT.ok) return code;
    const ranMs = parts.nowMs() - began;
    const how = signal === null ? `exit code ${code}` : signal;
    const ended = `process ${child.pid} ended with ${how} after ${Math.round(ranMs / 1000)} s`;
    wasWell ||= ranMs >= STEADY_MS;
    // What served before can again: a model's disk may be away for a while.
    if (code === EXIT.usage && !wasWell) {
      parts.say(`${ended}: it cannot work as asked, and is not started again`, true);
      return code;
    }
    if (!wasWell && starts >= FIRST_STARTS) {
      parts.say(`${ended}; none of ${starts} ran for a minute, and no other is started`, true);
      return EXIT.failure;
    }
    pauseMs = nextPause(pauseMs, ranMs);
    const left = wasWell ? "" : ` (start ${starts + 1} of ${FIRST_STARTS})`;
    parts.say(`${ended}; the next one starts in ${pauseMs / 1000} s${left}`, true);
    await parts.pause(pauseMs, ending.signal);
    if (ending.signal.aborted) return EXIT.ok;
  }
}

/** A pause that an abort ends. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
