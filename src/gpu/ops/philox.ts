/**
 * Philox 4x32-10 (Salmon et al., 2011): random numbers as a pure function of a key and a counter,
 * so that the number for a step does not depend on how often anything was drawn before it.
 *
 * @module
 */

const ROUNDS = 10;

/** Upper 32 bits of the product of two unsigned 32-bit integers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  // Two 16-bit halves at a time: every sum here stays below 2 ** 53.
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000)) >>> 0;
}

/**
 * The block of four words for a counter and a key.
 *
 * @param counter Four words.
 * @param key Two words.
 */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * The random number that picks the token of a step: a multiple of 2 ** -24 in [0, 1), so that a
 * 32-bit float holds it exactly.
 *
 * @param seed Unsigned 32-bit.
 * @param step Index of the token in the answer.
 */
export function uniformOf(seed: number, step: number): number {
  const high = Math.floor(step / 2 ** 32);
  return (philox4x32([step >>> 0, high, 0, 0], [seed >>> 0, 0])[0] >>> 8) / 2 ** 24;
}
