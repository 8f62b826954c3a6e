/**
 * Names by the time of their last use, the oldest first: a binary heap, since of many names few are
 * taken.
 *
 * @module
 */

/** Names that are taken one after the other. */
export class OldestFirst {
  readonly #names: string[] = [];
  readonly #times: number[] = [];

  get size(): number {
    return this.#names.length;
  }

  /** When the oldest one was used; infinity if there is none. */
  get oldestMs(): number {
    return this.#times[0] ?? Infinity;
  }

  /** Takes the oldest one out; null if there is none. */
  take(): string | null {
    if (this.size === 0) return null;
    this.#swap(0, this.size - 1);
    this.#times.pop();
    const name = this.#names.pop()!;
    this.#sink(0);
    return name;
  }

  put(name: string, usedMs: number): void {
    let at = this.#names.push(name) - 1;
    this.#times.push(usedMs);
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (this.#times[above]! <= usedMs) return;
      this.#swap(at, above);
      at = above;
    }
  }

  #sink(at: number): void {
    const times = this.#times;
    for (;;) {
      let least = at;
      for (const below of [2 * at + 1, 2 * at + 2]) {
        if (below < times.length && times[below]! < times[least]!) least = below;
      }
      if (least === at) return;
      this.#swap(at, least);
      at = least;
    }
  }

  #swap(a: number, b: number): void {
    const names = this.#names;
    const times = this.#times;
    [names[a], names[b]] = [names[b]!, names[a]!];
    [times[a], times[b]] = [times[b]!, times[a]!];
  }
}
