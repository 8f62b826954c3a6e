/** The directions that keys lie along most. @module */
import { EigenvalueDecomposition, Matrix } from "ml-matrix";

/** Leading principal components of one KV head. */
export interface Principal {
  /** (dim, count): column c is the direction with the c-th largest second moment, of length one */
  readonly components: Float32Array<ArrayBuffer>;
  /** Part of the second moment that lies in them, 0 to 1; 1 where there is none at all. */
  readonly share: number;
}

/**
 * Leading principal components from second moments. The result depends on the numbers alone: of a
 * direction and its opposite the one is taken whose largest entry, the first of equals, is positive.
 *
 * @param moments (dim, dim), symmetric and finite
 * @param count Columns of the result; those beyond `dim` are zero.
 */
export function principalComponents(
  moments: Float64Array,
  dim: number,
  count: number,
): Principal {
  const matrix = Matrix.from1DArray(dim, dim, [...moments]);
  const found = new EigenvalueDecomposition(matrix, { assumeSymmetric: true });
  const vectors = found.eigenvectorMatrix;
  // Rounding may put a moment of nothing below zero.
  const values = found.realEigenvalues.map((value) => Math.max(0, value));
  const order = values.map((_, index) => index).sort((a, b) => values[b]! - values[a]!);
  const kept = order.slice(0, count);
  const components = new Float32Array(dim * count);
  kept.forEach((index, column) => {
    let largest = 0;
    for (let row = 0; row < dim; row++) {
      const value = vectors.get(row, index);
      if (Math.abs(value) > Math.abs(largest)) largest = value;
    }
    const sign = largest < 0 ? -1 : 1;
    for (let row = 0; row < dim; row++) {
      // Plus zero: no entry is minus zero.
      components[row * count + column] = sign * vectors.get(row, index) + 0;
    }
  });
  const sum = (indices: readonly number[]) =>
    indices.reduce((total, index) => total + values[index]!, 0);
  const total = sum(order);
  return { components, share: total === 0 ? 1 : sum(kept) / total };
}
