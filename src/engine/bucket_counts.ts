/** Counts of a figure by its size, as a histogram of Prometheus has them. Pure. @module */

/** How often a figure had which size. */
export interface Buckets {
  /** (bounds + 1), the last for what is above all bounds. */
  readonly counts: readonly number[];
  /** Of all figures. */
  readonly sum: number;
}

/** Counts figures. */
export class BucketCounts {
  readonly #bounds: readonly number[];
  readonly #counts: number[];
  #sum = 0;

  /** @param bounds Ascending: a figure counts at the first that is not less. */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = new Array<number>(bounds.length + 1).fill(0);
  }

  add(figure: number): void {
    const found = this.#bounds.findIndex((bound) => figure <= bound);
    this.#counts[found < 0 ? this.#bounds.length : found]!++;
    this.#sum += figure;
  }

  /** The counts so far, as plain data. */
  now(): Buckets {
    return { counts: [...this.#counts], sum: this.#sum };
  }
}
