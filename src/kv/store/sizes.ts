/** Sizes that follow from the shape of a store. @module */
import { BLOCK_ROWS, type StoreShape } from "./types.ts";

/** Bytes before the parts of a block file. */
export const HEADER_BYTES = 128;

/** Bytes of everything that a block consists of. */
export interface BlockSizes {
  readonly shape: StoreShape;
  /** A row of one head: its keys or its values. */
  readonly row: number;
  /** The rows of one head in a part, keys or values: what has a checksum of its own. */
  readonly run: number;
  readonly runsPerPart: number;
  readonly part: number;
  readonly block: number;
  /** A part in a file: with the checksums of its runs behind it. */
  readonly record: number;
  /**
   * Room that a block takes on disk: one record more than it has layers, because a part that is
   * written again goes beside the old one, which a failed write must not touch.
   */
  readonly file: number;
}

/** @throws {RangeError} If the shape is impossible or its rows are no whole words. */
export function sizesOf(shape: StoreShape): BlockSizes {
  for (const [name, value] of Object.entries(shape)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new RangeError(`row store: ${name} must be a positive integer, not ${value}`);
    }
  }
  const row = shape.headDim * shape.bytesPerValue;
  if (row % 4 !== 0) {
    throw new RangeError(`row store: a row of ${row} bytes is no whole number of 32-bit words`);
  }
  const run = BLOCK_ROWS * row;
  const runsPerPart = 2 * shape.numKvHeads;
  const part = runsPerPart * run;
  const record = part + runsPerPart * 4;
  return {
    shape,
    row,
    run,
    runsPerPart,
    part,
    block: shape.numLayers * part,
    record,
    file: HEADER_BYTES + (shape.numLayers + 1) * record,
  };
}
