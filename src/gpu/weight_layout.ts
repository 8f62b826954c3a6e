/**
 * How weights lie in device memory: as in the file, with each block padded to whole 32-bit words,
 * so that a row starts at a word and loading is a copy. `shaders/common/weights.wgsl` reads them.
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
  /** Words of a block on the device. */
  readonly words: number;
  /** A two-byte field after which two bytes are inserted, or -1. */
  readonly padAfter: number;
  readonly order: UnitOrder;
  /** Weights are `scale * q + shift`; floats have neither. */
  readonly scale: boolean;
  readonly shift: boolean;
}

/** Layout of each storage type. Floats count as blocks of eight. */
export const WEIGHT_LAYOUTS: Readonly<Record<WeightType, Layout>> = {
  F32: {
    block: 8,
    fileBytes: 32,
    words: 8,
    padAfter: -1,
    order: "linear",
    scale: false,
    shift: false,
  },
  F16: {
    block: 8,
    fileBytes: 16,
    words: 4,
    padAfter: -1,
    order: "linear",
    scale: false,
    shift: false,
  },
  BF16: {
    block: 8,
    fileBytes: 16,
    words: 4,
    padAfter: -1,
    order: "linear",
    scale: false,
    shift: false,
  },
  Q8_0: {
    block: 32,
    fileBytes: 34,
    words: 9,
    padAfter: 2,
    order: "linear",
    scale: true,
    shift: false,
  },
  Q4_0: {
    block: 32,
    fileBytes: 18,
    words: 5,
    padAfter: 2,
    order: "split16",
    scale: true,
    shift: false,
  },
  Q4_1: {
    block: 32,
    fileBytes: 20,
    words: 5,
    padAfter: -1,
    order: "split16",
    scale: true,
    shift: true,
  },
  Q5_0: {
    block: 32,
    fileBytes: 22,
    words: 6,
    padAfter: 2,
    order: "split16",
    scale: true,
    shift: false,
  },
  Q5_1: {
    block: 32,
    fileBytes: 24,
    words: 6,
    padAfter: -1,
    order: "split16",
    scale: true,
    shift: true,
  },
  Q2_K: {
    block: 256,
    fileBytes: 84,
    words: 21,
    padAfter: -1,
    order: "split32",
    scale: true,
    shift: true,
  },
  Q3_K: {
    block: 256,
    fileBytes: 110,
    words: 28,
    padAfter: 110,
    order: "split32",
    scale: true,
    shift: false,
  },
  Q4_K: {
    block: 256,
    fileBytes: 144,
    words: 36,
    padAfter: -1,
    order: "split32",
    scale: true,
    shift: true,
  },
  Q5_K: {
    block: 256,
    fileBytes: 176,
    words: 44,
    padAfter: -1,
    order: "split32",
    scale: true,
    shift: true,
  },
  Q6_K: {
    block: 256,
    fileBytes: 210,
    words: 53,
    padAfter: 210,
    order: "split64",
    scale: true,
    shift: false,
  },
};

/** Defines that `shaders/common/weights.wgsl` takes for a type. */
export function weightDefines(type: WeightType): Defines {
  const layout = WEIGHT_LAYOUTS[type];
  return {
    WEIGHT_TYPE: type,
    UNIT_ORDER: layout.order,
    HAS_SCALE: layout.scale,
    HAS_SHIFT: layout.shift,
  };
}

/** Columns of a matrix on the device: `cols` rounded up to whole units of eight. */
export function paddedCols(cols: number): number {
  return Math.ceil(cols / 8) * 8;
}

/** Words of a row on the device. */
export function rowWords(type: WeightType, cols: number): number {
  const layout = WEIGHT_LAYOUTS[type];
  return Math.ceil(cols / layout.block) * layout.words;
}

/** Bytes of a row in the file. */
export function rowFileBytes(type: WeightType, cols: number): number {
  const layout = WEIGHT_LAYOUTS[type];
  if (layout.block === 8) return cols * (layout.fileBytes / 8);
  return (cols / layout.block) * layout.fileBytes;
}

/** Whether the file's bytes can go to the device as they are. */
export function isDeviceLayout(type: WeightType, cols: number): boolean {
  return WEIGHT_LAYOUTS[type].padAfter < 0 && rowFileBytes(type, cols) === rowWords(type, cols) * 4;
}

/**
 * Copies rows from file layout to device layout.
 *
 * @param source (rows, bytes of a row in the file)
 * @param target (rows, words of a row), zeroed
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
  const deviceRow = rowWords(type, cols) * 4;
  if (source.length < rows * fileRow || target.length < rows * deviceRow) {
    throw new RangeError(`${rows} rows of ${type} do not fit the given arrays`);
  }
  if (layout.padAfter < 0) {
    for (let row = 0; row < rows; row++) {
      target.set(source.subarray(row * fileRow, (row + 1) * fileRow), row * deviceRow);
    }
    return;
  }
  const blocks = rows * (cols / layout.block);
  const { fileBytes, padAfter } = layout;
  const deviceBytes = layout.words * 4;
  if (padAfter === 2) {
    // Half-words throughout: a copy by 16 bits is much faster than one subarray a block.
    const from = source.byteOffset % 2 === 0
      ? new Uint16Array(source.buffer, source.byteOffset, blocks * fileBytes / 2)
      : new Uint16Array(source.slice(0, blocks * fileBytes).buffer);
    const to = new Uint16Array(target.buffer, target.byteOffset, blocks * deviceBytes / 2);
    const step = fileBytes / 2;
    for (let block = 0, i = 0, o = 0; block < blocks; block++, i += step, o += step + 1) {
      to[o] = from[i]!;
      for (let k = 1; k < step; k++) to[o + 1 + k] = from[i + k]!;
    }
    return;
  }
  for (let block = 0; block < blocks; block++) {
    target.set(source.subarray(block * fileBytes, (block + 1) * fileBytes), block * deviceBytes);
  }
}
