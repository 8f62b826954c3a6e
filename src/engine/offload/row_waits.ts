/**
 * Time that decode steps cannot go on because rows are still to be brought to the device: reading them
 * from host memory or files, and handing them over. Waiting for the device itself is not in it, be it
 * for what it chose: it computes meanwhile. Neither is what is fetched for a later step.
 *
 * @module
 */

/** What is added up, over all sequences. */
export interface WaitSums {
  waitedMs: number;
  /** Decode steps with such a time. */
  waitedSteps: number;
}

/** Adds up, a step after the other. */
export class RowWaits {
  readonly #sums: WaitSums;
  #counted = false;

  constructor(sums: WaitSums) {
    this.#sums = sums;
  }

  /** A step begins, which has waited for nothing yet. */
  begin(): void {
    this.#counted = false;
  }

  /** It waited so long. */
  add(ms: number): void {
    this.#sums.waitedMs += ms;
    if (!this.#counted) this.#sums.waitedSteps++;
    this.#counted = true;
  }

  /** It waits for this, also if that fails. */
  during<T>(work: () => T): T {
    const began = performance.now();
    try {
      return work();
    } finally {
      this.add(performance.now() - began);
    }
  }
}
