/** How many tokens the steps of an engine had. Pure. @module */

/** Tokens of a step, as vLLM's histogram has them: a step counts at the first that is not less. */
export const STEP_SIZE_BOUNDS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/** Steps by their size. */
export interface StepSizes {
  /** (bounds + 1), the last for those above all bounds. */
  readonly counts: readonly number[];
  /** Tokens of all steps. */
  readonly sum: number;
}

/** Counts steps. */
export class StepSizeCounts implements StepSizes {
  readonly #counts = new Array<number>(STEP_SIZE_BOUNDS.length + 1).fill(0);
  #sum = 0;

  get counts(): readonly number[] {
    return [...this.#counts];
  }

  get sum(): number {
    return this.#sum;
  }

  /** A step had so many tokens: a row of each sequence that decodes, or a piece of a prompt. */
  add(numTokens: number): void {
    const found = STEP_SIZE_BOUNDS.findIndex((bound) => numTokens <= bound);
    this.#counts[found < 0 ? STEP_SIZE_BOUNDS.length : found]!++;
    this.#sum += numTokens;
  }
}
