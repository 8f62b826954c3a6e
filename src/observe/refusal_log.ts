/**
 * Lines of the log for connections that never became a request: a bounded number of them, since
 * anybody can open connections, and a count of the rest.
 *
 * @module
 */
import type { Logger } from "./logger.ts";
import type { RefusedConnection } from "./types.ts";

/** Lines in a window of time, and how long one is. */
export const MOST_LINES = 10;
const WINDOW_MS = 10_000;

/** Clock of a {@linkcode RefusalLog}. */
export interface RefusalClock {
  /** Calls once after so many milliseconds, unless the process ends before. */
  later(ms: number, call: () => void): void;
}

const CLOCK: RefusalClock = {
  // Nobody has to wait for a count.
  later: (ms, call) => Deno.unrefTimer(setTimeout(call, ms)),
};

/** Writes the lines. */
export class RefusalLog {
  readonly #logger: Logger;
  readonly #clock: RefusalClock;
  #numLines = 0;
  #isOpen = false;
  /** By the code of the error: those of the window that have no line. */
  readonly #untold = new Map<string, number>();

  constructor(logger: Logger, clock: RefusalClock = CLOCK) {
    this.#logger = logger;
    this.#clock = clock;
  }

  add({ code, answer, peer }: RefusedConnection): void {
    if (!this.#logger.enabled("info")) return;
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.#clock.later(WINDOW_MS, () => this.#close());
    }
    if (this.#numLines === MOST_LINES) {
      this.#untold.set(code, (this.#untold.get(code) ?? 0) + 1);
      return;
    }
    this.#numLines++;
    this.#logger.log("info", "refused connection", {
      request_id: answer?.id,
      status: answer?.status,
      error: code,
      peer,
    });
  }

  /** The window is over. */
  #close(): void {
    this.#isOpen = false;
    this.#numLines = 0;
    for (const [code, count] of this.#untold) {
      this.#logger.log("info", "refused connections that have no line", { error: code, count });
    }
    this.#untold.clear();
  }
}
