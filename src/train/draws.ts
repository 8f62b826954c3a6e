/** Random numbers of a training: a pure function of seed, stream and how many were drawn. @module */
import { philox4x32 } from "../gpu/ops/philox.ts";

/** One stream of numbers. */
export class Draws {
  readonly #key: readonly [number, number];
  #count = 0;

  constructor(seed: number, stream: number) {
    this.#key = [seed >>> 0, stream >>> 0];
  }

  /** A multiple of 2 ** -32 in [0, 1). */
  next(): number {
    return philox4x32([this.#count++, 0, 0, 0], this.#key)[0] / 2 ** 32;
  }

  /** A whole number from 0 to `count` - 1. */
  below(count: number): number {
    return Math.floor(this.next() * count);
  }

  /** The numbers 0 to `count` - 1 in random order. */
  order(count: number): number[] {
    const all = Array.from({ length: count }, (_, index) => index);
    for (let i = count - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [all[i], all[j]] = [all[j]!, all[i]!];
    }
    return all;
  }

  /** `count` different numbers from `first` to `end` - 1, rising: one of each of equal parts. */
  spread(first: number, end: number, count: number): number[] {
    const size = end - first;
    return Array.from({ length: count }, (_, index) => {
      const from = Math.floor(index * size / count);
      const to = Math.floor((index + 1) * size / count);
      return first + from + this.below(to - from);
    });
  }
}
