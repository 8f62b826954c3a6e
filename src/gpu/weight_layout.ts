/**
 * How weights lie in device memory, so that a kernel can load four words at a time:
 * `shaders/common/weights.wgsl` reads what is written here.
 *
 * A row is a whole number of vec4u. Floats and K-quants keep their blocks as in the file, padded to
 * whole vec4u. The types with blocks of 32 are taken apart: all quantised values of the row come
 * first, then the high bits (Q5), then scales and minima.
 *
 * @module
 */
import type { WeightType } from "../model/types.ts";
import type { Defines } from "./preprocessor.ts";

/** Where the two halves of a unit of eight weights belong; names as in weights.wgsl. */
export type UnitOrder = "linear" | "split16" | "split32" | "split64";

interface Layout {
  /** Weights of a block. */
  readonly block: number;
  /** Bytes of a block in the file. */
  readonly fileBytes: number;
  readonly order: UnitOrder;
  /** Weights are `scale * q + shift`; floats have neither. */
  readonly scale: boolean;
  readonly shift: boolean;
  /** Blocks of 32 that are taken apart: 16-bit words of each, in the file's order. */
  readonly parts?: {
    /** f16 values at the start: scale, and minimum if 2. */
    readonly scales: 1 | 2;
    /** Words of high bits. */
    readonly high: 0 | 2;
    /** Words of quantised values. */
    readonly values: 8 | 16;
  };
}

const FLOAT = { block: 8, order: "linear", scale: false, shift: false } as const;
const BLOCK_32 = { block: 32, order: "split16", scale: true } as const;
const K_QUANT = { block: 256, order: "split32", scale: true } as const;

/** Layout of each storage type. Floats count as blocks of eight. */
export const WEIGHT_LAYOUTS: Readonly<Record<WeightType, Layout>> = {
  F32: { ...FLOAT, fileBytes: 32 },
  F16: { ...FLOAT, fileBytes: 16 },
  BF16: { ...FLOAT, fileBytes: 16 },
  Q8_0: {
    ...BLOCK_32,
    fileBytes: 34,
    order: "linear",
    shift: false,
    parts: { scales: 1, high: 0, values: 16 },
  },
  Q4_0: { ...BLOCK_32, fileBytes: 18, shift: false, parts: { scales: 1, high: 0, values: 8 } },
  Q4_1: { ...BLOCK_32, fileBytes: 20, shift: true, parts: { scales: 2, high: 0, values: 8 } },
  Q5_0: { ...BLOCK_32, fileBytes: 22, shift: false, parts: { scales: 1, high: 2, values: 8 } },
  Q5_1: { ...BLOCK_32, fileBytes: 24, shift: true, parts: { scales: 2, high: 2, values: 8 } },
  Q2_K: { ...K_QUANT, fileBytes: 84, shift: true },
  Q3_K: { ...K_QUANT, fileBytes: 110, shift: false },
  Q4_K: { ...K_QUANT, fileBytes: 144, shift: true },
  Q5_K: { ...K_QUANT, fileBytes: 176, shift: true },
  Q6_K: { ...K_QUANT, fileBytes: 210, order: "split64", shift: false },
};

/** Defines that `shaders/common/weights.wgsl` takes for a type. */
export function weightDefines(type: WeightType): Defines {
  const layout = WEIGHT_LAYOUTS[type];
  return {
    WEIGHT_TYPE: type,
    UNIT_ORDER: layout.order,
    X_STEP: layout.order === "linear" ? "2u" : "1u",
    HAS_SCALE: layout.scale,
    HAS_SHIFT: layout.shift,
    HIGH_BITS: layout.parts?.high === 2,
    SIX_BIT_SCALES: type === "Q4_K" || type === "Q5_K",
    QUAD_LOADS: layout.block === 8 ? "units" : "vectors",
  };
}

/**
 * Columns of a matrix on the device: `cols` rounded up to whole quads, 32 weights. Rows of
 * activations have as many; what is past `cols` stays zero on both sides.
 */
export function paddedCols(cols: number): number {
  return Math.ceil(cols / 32) * 32;
}

/** vec4u of a row on the device. */
export function rowVecs(type: WeightType, cols: number): number {
  const { block, fileBytes, parts } = WEIGHT_LAYOUTS[type];
  if (parts === undefined) {
    const blocks = Math.ceil((block === 8 ? paddedCols(cols) : cols) / block);
    return blocks * Math.ceil(fileBytes / 16);
  }
  const blocks = cols / block;
  const halves = blocks * (parts.values + parts.high + parts.scales);
  return Math.ceil(halves / 8);
}

/** Bytes of a row on the device. */
export function rowBytes(type: WeightType, cols: number): number {
  return rowVecs(type, cols) * 16;
}

/** Bytes of a row in the file. */
export function rowFileBytes(type: WeightType, cols: number): number {
  const layout = WEIGHT_LAYOUTS[type];
  if (layout.block === 8) return cols * (layout.fileBytes / 8);
  return (cols / layout.block) * layout.fileBytes;
}

/** Whether the file's bytes can go to the device as they are. */
export function isDeviceLayout(type: WeightType, cols: number): boolean {
  const { parts } = WEIGHT_LAYOUTS[type];
  return parts === undefined && rowFileBytes(type, cols) === rowBytes(type, cols);
}

/**
 * Rearranges rows from file layout to device layout.
 *
 * @param source (rows, bytes of a row in the file)
 * @param target (rows, bytes of a row on the device), zeroed, at an even offset
 * @throws {RangeError} If an array is too short.
 */
export function toDeviceLayout(
  type: WeightType,
  rows: number,
  cols: number,
  source: Uint8Array,
  target: Uint8Array,
): void {
  const layout = WEIGHT_LAYOUTS[type];
  const fileRow = rowFileBytes(type, cols);
  const deviceRow = rowBytes(type, cols);
  if (source.length < rows * fileRow || target.length < rows * deviceRow) {
    throw new RangeError(`${rows} rows of ${type} do not fit the given arrays`);
  }
  if (layout.parts !== undefined) {
    takeApart(layout.parts, rows, cols / 32, source, target, deviceRow / 2);
    return;
  }
  const { fileBytes, block } = layout;
  const deviceBlock = Math.ceil(fileBytes / 16) * 16;
  if (block === 8 || fileBytes === deviceBlock) {
    for (let row = 0; row < rows; row++) {
      target.set(source.subarray(row * fileRow, (row + 1) * fileRow), row * deviceRow);
    }
    return;
  }
  const blocks = rows * (cols / block);
  for (let i = 0; i < blocks; i++) {
    target.set(source.subarray(i * fileBytes, (i + 1) * fileBytes), i * deviceBlock);
  }
}

/** The types with blocks of 32; everything in them is made of 16-bit words. */
function takeApart(
  parts: NonNullable<Layout["parts"]>,
  rows: number,
  blocks: number,
  source: Uint8Array,
  target: Uint8Array,
  deviceRow: number,
): void {
  const { scales, high, values } = parts;
  const size = scales + high + values;
  const from = halves(source, rows * blocks * size);
  const to = new Uint16Array(target.buffer, target.byteOffset, rows * deviceRow);
  let read = 0;
  for (let row = 0; row < rows; row++) {
    let value = row * deviceRow;
    let bits = value + blocks * values;
    let scale = bits + blocks * high;
    for (let block = 0; block < blocks; block++) {
      for (let i = 0; i < scales; i++) to[scale++] = from[read++]!;
      for (let i = 0; i < high; i++) to[bits++] = from[read++]!;
      for (let i = 0; i < values; i++) to[value++] = from[read++]!;
    }
  }
}

function halves(bytes: Uint8Array, count: number): Uint16Array {
  if (bytes.byteOffset % 2 === 0) return new Uint16Array(bytes.buffer, bytes.byteOffset, count);
  return new Uint16Array(bytes.slice(0, count * 2).buffer);
}
