/**
 * Block formats of weights: their sizes, and a plain reference that unpacks them. The kernels
 * unpack in registers; this is what they are tested against, and what reads small tensors.
 *
 * @module
 */

import type { WeightType } from "./types.ts";
import { dequantizeKBlock, isKQuant } from "./quants_k.ts";

/** Size of one block of a format. */
export interface BlockGeometry {
  /** Weights that share a block; a row is a whole number of blocks. */
  readonly weights: number;
  /** Bytes of a block in the file. */
  readonly bytes: number;
}

/** Sizes of all formats. */
export const BLOCK_GEOMETRY: Readonly<Record<WeightType, BlockGeometry>> = {
  F32: { weights: 1, bytes: 4 },
  F16: { weights: 1, bytes: 2 },
  BF16: { weights: 1, bytes: 2 },
  Q8_0: { weights: 32, bytes: 34 },
  Q4_0: { weights: 32, bytes: 18 },
  Q4_1: { weights: 32, bytes: 20 },
  Q5_0: { weights: 32, bytes: 22 },
  Q5_1: { weights: 32, bytes: 24 },
  Q2_K: { weights: 256, bytes: 84 },
  Q3_K: { weights: 256, bytes: 110 },
  Q4_K: { weights: 256, bytes: 144 },
  Q5_K: { weights: 256, bytes: 176 },
  Q6_K: { weights: 256, bytes: 210 },
};

/**
 * Bytes of `count` weights.
 *
 * @throws {RangeError} If `count` is not a whole number of blocks.
 */
export function bytesOfWeights(type: WeightType, count: number): number {
  const { weights, bytes } = BLOCK_GEOMETRY[type];
  if (!Number.isSafeInteger(count) || count < 0 || count % weights !== 0) {
    throw new RangeError(`${count} weights are not a whole number of ${type} blocks of ${weights}`);
  }
  return count / weights * bytes;
}

const scratch = new DataView(new ArrayBuffer(4));

/** Value of a half-precision number given by its bits; subnormals are kept. */
export function halfToFloat(bits: number): number {
  scratch.setUint16(0, bits);
  return scratch.getFloat16(0);
}

/** Bits of the nearest half-precision number (ties to even; too large gives infinity). */
export function floatToHalf(value: number): number {
  scratch.setFloat16(0, value);
  return scratch.getUint16(0);
}

/**
 * Unpacks consecutive weights.
 *
 * @param bytes - Whole blocks, as they stand in the file.
 * @param out - (weights of all blocks), filled with their values.
 * @throws {RangeError} If the two lengths do not belong together.
 */
export function dequantizeRow(type: WeightType, bytes: Uint8Array, out: Float32Array): void {
  if (bytesOfWeights(type, out.length) !== bytes.length) {
    throw new RangeError(`${bytes.length} bytes of ${type} do not hold ${out.length} weights`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const block = BLOCK_GEOMETRY[type];
  for (let b = 0, at = 0; at < out.length; b += block.bytes, at += block.weights) {
    if (isKQuant(type)) dequantizeKBlock(type, view, b, out, at);
    else dequantizeBlock(type, view, b, out, at);
  }
}

type SmallType = Exclude<WeightType, "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K">;

/** Blocks of 32 keep weight j in a low nibble and weight j + 16 in the high nibble beside it. */
function dequantizeBlock(
  type: SmallType,
  view: DataView,
  b: number,
  out: Float32Array,
  at: number,
): void {
  switch (type) {
    case "F32":
      out[at] = view.getFloat32(b, true);
      return;
    case "F16":
      out[at] = view.getFloat16(b, true);
      return;
    case "BF16":
      scratch.setUint32(0, view.getUint16(b, true) << 16 >>> 0);
      out[at] = scratch.getFloat32(0);
      return;
    case "Q8_0": {
      const scale = view.getFloat16(b, true);
      for (let j = 0; j < 32; j++) out[at + j] = scale * view.getInt8(b + 2 + j);
      return;
    }
    case "Q4_0": {
      const scale = view.getFloat16(b, true);
      for (let j = 0; j < 16; j++) {
        const q = view.getUint8(b + 2 + j);
        out[at + j] = scale * ((q & 15) - 8);
        out[at + j + 16] = scale * ((q >> 4) - 8);
      }
      return;
    }
    case "Q4_1": {
      const scale = view.getFloat16(b, true);
      const least = view.getFloat16(b + 2, true);
      for (let j = 0; j < 16; j++) {
        const q = view.getUint8(b + 4 + j);
        out[at + j] = scale * (q & 15) + least;
        out[at + j + 16] = scale * (q >> 4) + least;
      }
      return;
    }
    case "Q5_0": {
      const scale = view.getFloat16(b, true);
      const fifth = view.getUint32(b + 2, true);
      for (let j = 0; j < 16; j++) {
        const q = view.getUint8(b + 6 + j);
        out[at + j] = scale * ((q & 15 | (fifth >>> j & 1) << 4) - 16);
        out[at + j + 16] = scale * ((q >> 4 | (fifth >>> j + 16 & 1) << 4) - 16);
      }
      return;
    }
    case "Q5_1": {
      const scale = view.getFloat16(b, true);
      const least = view.getFloat16(b + 2, true);
      const fifth = view.getUint32(b + 4, true);
      for (let j = 0; j < 16; j++) {
        const q = view.getUint8(b + 8 + j);
        out[at + j] = scale * (q & 15 | (fifth >>> j & 1) << 4) + least;
        out[at + j + 16] = scale * (q >> 4 | (fifth >>> j + 16 & 1) << 4) + least;
      }
      return;
    }
    default:
      throw new RangeError(`unknown format ${type satisfies never}`);
  }
}
