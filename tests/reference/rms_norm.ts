/** The norm in plain f64: what `shaders/rms_norm.wgsl` must agree with. @module */

/**
 * x * gain / sqrt(mean(x^2) + eps) of one row.
 *
 * @param x (width)
 * @param gain (width)
 */
export function rmsNormReference(
  x: ArrayLike<number>,
  gain: ArrayLike<number>,
  eps: number,
): number[] {
  let square = 0;
  for (let i = 0; i < x.length; i++) square += x[i]! * x[i]!;
  const scale = 1 / Math.sqrt(square / x.length + eps);
  return Array.from({ length: x.length }, (_, i) => x[i]! * gain[i]! * scale);
}
