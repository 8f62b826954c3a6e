/** The K formats: super-blocks of 256 weights with their scales packed in six bits. @module */

import type { WeightType } from "./types.ts";

/** Formats of this file. */
export type KQuantType = Extract<WeightType, `${string}_K`>;

/** Whether a format is one of {@linkcode KQuantType}. */
export function isKQuant(type: WeightType): type is KQuantType {
  return type.endsWith("_K");
}

/** Unpacks the super-block at byte `b` into the 256 values from `at` on. */
export function dequantizeKBlock(
  type: KQuantType,
  view: DataView,
  b: number,
  out: Float32Array,
  at: number,
): void {
  switch (type) {
    case "Q2_K":
      return q2(view, b, out, at);
    case "Q3_K":
      return q3(view, b, out, at);
    case "Q4_K":
      return q45(view, b, out, at, false);
    case "Q5_K":
      return q45(view, b, out, at, true);
    case "Q6_K":
      return q6(view, b, out, at);
    default:
      throw new RangeError(`unknown format ${type satisfies never}`);
  }
}

/**
 * Scales (16): scale in the low nibble, minimum in the high one; then 64 bytes of two-bit values;
 * then the two halves they are multiplied with. Weight i of a half of 128 lies in byte i % 32, at
 * bit 2 * (i / 32).
 */
function q2(view: DataView, b: number, out: Float32Array, at: number): void {
  const scale = view.getFloat16(b + 80, true);
  const least = view.getFloat16(b + 82, true);
  for (let i = 0; i < 256; i++) {
    const packed = view.getUint8(b + (i >> 4));
    const byte = view.getUint8(b + 16 + (i >> 7) * 32 + (i & 31));
    const q = byte >> 2 * (i >> 5 & 3) & 3;
    out[at + i] = scale * (packed & 15) * q - least * (packed >> 4);
  }
}

/**
 * 32 bytes of third bits (bit i / 32 of byte i % 32; a clear bit subtracts four), 64 bytes of
 * two-bit values as in Q2_K, 12 bytes of sixteen six-bit scales offset by 32, and their factor.
 */
function q3(view: DataView, b: number, out: Float32Array, at: number): void {
  const scale = view.getFloat16(b + 108, true);
  for (let i = 0; i < 256; i++) {
    const s = i >> 4;
    const low = view.getUint8(b + 96 + (s & 7)) >> (s < 8 ? 0 : 4) & 15;
    const high = view.getUint8(b + 104 + (s & 3)) >> 2 * (s >> 2) & 3;
    const byte = view.getUint8(b + 32 + (i >> 7) * 32 + (i & 31));
    const third = view.getUint8(b + (i & 31)) >> (i >> 5) & 1;
    const q = (byte >> 2 * (i >> 5 & 3) & 3) - (third ? 0 : 4);
    out[at + i] = scale * ((low | high << 4) - 32) * q;
  }
}

/**
 * Two halves (factors of scales and minima), 12 bytes of eight six-bit scales and minima, for Q5_K
 * 32 bytes of fifth bits (bit i / 32 of byte i % 32), then nibbles: of each 64 weights the first
 * 32 are the low nibbles of 32 bytes and the others the high ones.
 */
function q45(view: DataView, b: number, out: Float32Array, at: number, five: boolean): void {
  const scale = view.getFloat16(b, true);
  const least = view.getFloat16(b + 2, true);
  const quants = b + (five ? 48 : 16);
  for (let s = 0; s < 8; s++) {
    const byte = (i: number) => view.getUint8(b + 4 + i);
    // The last four pairs keep four bits in bytes 8..11 and their upper two in bytes 0..7.
    const sc = s < 4 ? byte(s) & 63 : byte(s + 4) & 15 | byte(s - 4) >> 6 << 4;
    const mn = s < 4 ? byte(s + 4) & 63 : byte(s + 4) >> 4 | byte(s) >> 6 << 4;
    const factor = scale * sc;
    const offset = least * mn;
    for (let l = 0; l < 32; l++) {
      let q = view.getUint8(quants + (s >> 1) * 32 + l) >> (s & 1) * 4 & 15;
      if (five) q |= (view.getUint8(b + 16 + l) >> s & 1) << 4;
      out[at + s * 32 + l] = factor * q - offset;
    }
  }
}

/**
 * For each half of 128: 64 bytes of low nibbles, 32 bytes of upper bit pairs, eight signed scales;
 * stored as all nibbles, all pairs, all scales, then their factor. Values are offset by 32.
 */
function q6(view: DataView, b: number, out: Float32Array, at: number): void {
  const scale = view.getFloat16(b + 208, true);
  for (let i = 0; i < 256; i++) {
    const half = i >> 7;
    const quarter = i >> 5 & 3;
    const l = i & 31;
    const nibbles = view.getUint8(b + half * 64 + (quarter & 1) * 32 + l);
    const pairs = view.getUint8(b + 128 + half * 32 + l);
    const q = (nibbles >> (quarter >> 1) * 4 & 15 | (pairs >> quarter * 2 & 3) << 4) - 32;
    out[at + i] = scale * view.getInt8(b + 192 + (i >> 4)) * q;
  }
}
