/** Second moments of vectors. @module */
import { Matrix } from "ml-matrix";

/** Sums of products of a vector's values. */
export class Moments {
  readonly #sums: Float64Array<ArrayBuffer>;
  #count = 0;

  constructor(readonly size: number) {
    this.#sums = new Float64Array(size * size);
  }

  /** Vectors so far. */
  get count(): number {
    return this.#count;
  }

  /** Adds the vector that begins at `at`. */
  add(values: ArrayLike<number>, at: number): void {
    const sums = this.#sums;
    const { size } = this;
    this.#count++;
    for (let i = 0; i < size; i++) {
      const value = values[at + i]!;
      for (let j = 0; j <= i; j++) sums[i * size + j]! += value * values[at + j]!;
    }
  }

  /** (size, size): mean of the products; zeros where there was no vector. */
  mean(): Matrix {
    const sums = this.#sums;
    const { size } = this;
    const count = Math.max(this.#count, 1);
    return new Matrix(Array.from(
      { length: size },
      (_, i) =>
        Array.from(
          { length: size },
          (_, j) => (i >= j ? sums[i * size + j]! : sums[j * size + i]!) / count,
        ),
    ));
  }
}
