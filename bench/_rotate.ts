/**
 * Moves keys to other positions. A key in the cache is rotated by the angles of its position; turned
 * further by the angles of a distance it is what the same key would be at that distance.
 *
 * @module
 */
import type { RopeConfig } from "../src/model/types.ts";

/** Values of keys as the cache stores them. */
export type KeyValues = Float16Array<ArrayBuffer> | Float32Array<ArrayBuffer>;

/** Cosine and sine of each pair of dimensions for a distance: (pairs) of both. */
export interface Turn {
  readonly cos: Float64Array;
  readonly sin: Float64Array;
}

/** Angles of a distance in positions; negative ones go back. */
export function turnOf({ inverseFrequencies }: RopeConfig, distance: number): Turn {
  const cos = new Float64Array(inverseFrequencies.length);
  const sin = new Float64Array(inverseFrequencies.length);
  inverseFrequencies.forEach((frequency, pair) => {
    cos[pair] = Math.cos(distance * frequency);
    sin[pair] = Math.sin(distance * frequency);
  });
  return { cos, sin };
}

/**
 * Turns keys, each by the same distance.
 *
 * The factor that some models multiply cosine and sine with is in the keys already and stays. Each
 * value is rounded once, to the type of `out`.
 *
 * @param keys (any number of heads and rows, headDim)
 * @param out The same shape; may be `keys` itself.
 * @throws {RangeError} If the lengths do not fit.
 */
export function rotateKeys(
  { dimensions, pairing }: RopeConfig,
  headDim: number,
  { cos, sin }: Turn,
  keys: KeyValues,
  out: KeyValues,
): void {
  if (keys.length % headDim !== 0 || out.length !== keys.length) {
    throw new RangeError(
      `cannot turn ${keys.length} values of heads of ${headDim} into ${out.length}`,
    );
  }
  const pairs = dimensions / 2;
  const [stride, apart] = pairing === "half" ? [1, pairs] : [2, 1];
  for (let head = 0; head < keys.length; head += headDim) {
    for (let pair = 0; pair < pairs; pair++) {
      const at = head + pair * stride;
      const a = keys[at]!;
      const b = keys[at + apart]!;
      out[at] = a * cos[pair]! - b * sin[pair]!;
      out[at + apart] = b * cos[pair]! + a * sin[pair]!;
    }
    for (let i = head + dimensions; i < head + headDim; i++) out[i] = keys[i]!;
  }
}
