/** Weights of every storage type for the kernel tests: random blocks and the golden ones. */
import { rowBytes, toDeviceLayout } from "../../src/gpu/weight_layout.ts";
import { BLOCK_GEOMETRY, bytesOfWeights, dequantizeRow } from "../../src/model/quants.ts";
import type { WeightType } from "../../src/model/types.ts";
import type { Random } from "./_rig.ts";
import { assert } from "std-testing";

/** A matrix as a file holds it. */
export interface Stored {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  /** Whole rows, as in a file. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Bytes of a block that hold half-precision factors. */
const HALVES: Readonly<Record<WeightType, readonly number[]>> = {
  F32: [],
  F16: [],
  BF16: [],
  Q8_0: [0],
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q2_K: [80, 82],
  Q3_K: [108],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
};

/** Random rows. Factors of blocks are by turns ordinary and too small for a normal half. */
export function randomStored(
  type: WeightType,
  rows: number,
  cols: number,
  random: Random,
  scale = 0.05,
): Stored {
  const bytes = new Uint8Array(rows * bytesOfWeights(type, cols));
  const view = new DataView(bytes.buffer);
  const size = BLOCK_GEOMETRY[type].bytes;
  if (type === "F32" || type === "F16" || type === "BF16") {
    random.floats(rows * cols, scale).forEach((value, i) => {
      if (type === "F32") view.setFloat32(i * 4, value, true);
      else if (type === "F16") view.setFloat16(i * 2, value, true);
      else {
        view.setFloat32(0, value, true);
        view.setUint16(i * 2, view.getUint16(2, true), true);
      }
    });
    // The scratch use of the first four bytes above leaves odd values there.
    if (type === "BF16") view.setUint32(0, 0x3d80bd40, true);
    if (type === "F16" && cols > 4) view.setUint16(4, 0x8003, true);
    return { type, rows, cols, bytes };
  }
  for (let i = 0; i < bytes.length; i++) bytes[i] = random.int(0, 255);
  for (let block = 0; block * size < bytes.length; block++) {
    for (const at of HALVES[type]) {
      if (block % 3 === 2) view.setUint16(block * size + at, random.int(1, 1023), true);
      else view.setFloat16(block * size + at, scale * (random.next() - 0.5), true);
    }
  }
  return { type, rows, cols, bytes };
}

/** The rows that `tests/data/quants/blocks.json` holds of a type, with values an oracle found. */
export function goldenStored(type: WeightType): Stored & { values: readonly number[] } {
  const path = new URL("../data/quants/blocks.json", import.meta.url);
  const file: Record<string, { shape: [number, number]; bytes_base64: string; values: number[] }> =
    JSON.parse(Deno.readTextFileSync(path));
  const { shape: [rows, cols], bytes_base64, values } = file[type]!;
  return { type, rows, cols, bytes: Uint8Array.fromBase64(bytes_base64), values };
}

/** The matrix as the device wants it. */
export function deviceBytes({ type, rows, cols, bytes }: Stored): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(rows * rowBytes(type, cols));
  toDeviceLayout(type, rows, cols, bytes, out);
  return out;
}

/** The values: (rows, cols). */
export function unpacked({ type, rows, cols, bytes }: Stored): Float32Array {
  const out = new Float32Array(rows * cols);
  dequantizeRow(type, bytes, out);
  return out;
}

/** Largest error of an unpacked weight, in parts of the largest of its block. */
const UNPACK_ERROR = 1e-6;

/** Compares unpacked weights; both hold whole blocks. */
export function assertUnpacked(
  type: WeightType,
  got: Float32Array,
  want: Float32Array,
  where: string,
): void {
  const { weights } = BLOCK_GEOMETRY[type];
  assert.equal(got.length, want.length, where);
  for (let start = 0; start < want.length; start += weights) {
    const block = want.subarray(start, start + weights);
    const limit = UNPACK_ERROR * block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    block.forEach((value, i) => {
      if (Math.abs(got[start + i]! - value) > limit || Number.isNaN(got[start + i])) {
        const index = start + i;
        assert.fail(`${where}: weight ${index} is ${got[index]}, should be ${value} (+-${limit})`);
      }
    });
  }
}
