/**
 * The format of a block on disk, the same for spilled and for saved blocks: a header, the parts,
 * each with the checksums of its runs behind it, and (saved blocks) what was kept beside them.
 *
 * ```
 *   0  "TBKVBLK1"             32  rows of a block          80  name (32 bytes)
 *   8  version                36  bytes of extras         112  zeros
 *  12  kind                   40  CRC-32 of extras        124  CRC-32 of what is before
 *  16  layers, kv heads,      44  zero                    128  records: part, CRC-32 of each run
 *      head size, value size  48  SHA-256 of fingerprint       extras
 * ```
 *
 * Numbers are 32 bits, little endian.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import type { FileOps } from "./file_ops.ts";
import { type BlockSizes, HEADER_BYTES } from "./sizes.ts";
import { BLOCK_ROWS } from "./types.ts";

const MAGIC = "TBKVBLK1";
const VERSION = 1;

/** Spilled files end with their sequence, saved ones outlive the process. */
export const FILE_KINDS = { spilled: 0, saved: 1 } as const;

/** What tells one block file from another. */
export interface HeaderFields {
  readonly kind: keyof typeof FILE_KINDS;
  /** 64 hexadecimal digits: the key of a prefix block, or anything unique. */
  readonly name: string;
  readonly extras: Uint8Array | null;
}

/** A block's file, as this process knows it. */
export interface BlockFile {
  readonly path: string;
  readonly header: Uint8Array;
  /** Record that holds each layer's part. */
  readonly slots: Uint16Array;
  /** The record that no layer uses. */
  spare: number;
  /** (layers, runs) checksums of what was written. */
  readonly checksums: Uint32Array;
}

/** The header of a file; `digest` is the SHA-256 of the store's fingerprint. */
export function encodeHeader(
  sizes: BlockSizes,
  digest: Uint8Array,
  fields: HeaderFields,
): Uint8Array {
  const header = new Uint8Array(HEADER_BYTES);
  const view = new DataView(header.buffer);
  header.set(new TextEncoder().encode(MAGIC));
  const { numLayers, numKvHeads, headDim, bytesPerValue } = sizes.shape;
  const numbers = [
    VERSION,
    FILE_KINDS[fields.kind],
    numLayers,
    numKvHeads,
    headDim,
    bytesPerValue,
    BLOCK_ROWS,
    // Null and empty are different things: nothing, and something of length 0.
    fields.extras === null ? 0xffff_ffff : fields.extras.length,
    fields.extras === null ? 0 : crc32(fields.extras),
  ];
  numbers.forEach((number, index) => view.setUint32(8 + index * 4, number, true));
  header.set(digest, 48);
  header.set(Uint8Array.fromHex(fields.name), 80);
  view.setUint32(124, crc32(header.subarray(0, 124)), true);
  return header;
}

/** Length of the extras that a header speaks of; null for none. */
export function extrasLength(header: Uint8Array): number | null {
  const length = new DataView(header.buffer, header.byteOffset).getUint32(36, true);
  return length === 0xffff_ffff ? null : length;
}

/**
 * Computes the checksums of a part into `checksums[at ..]`.
 *
 * @param part - From `offset` on.
 */
export function checksumPart(
  sizes: BlockSizes,
  part: Uint8Array,
  offset: number,
  checksums: Uint32Array,
  at: number,
): void {
  for (let run = 0; run < sizes.runsPerPart; run++) {
    const start = offset + run * sizes.run;
    checksums[at + run] = crc32(part.subarray(start, start + sizes.run));
  }
}

/** Number of the first run whose checksum is another one; -1 if all are right. */
export function findDamage(
  sizes: BlockSizes,
  part: Uint8Array,
  offset: number,
  checksums: Uint32Array,
  at: number,
): number {
  for (let run = 0; run < sizes.runsPerPart; run++) {
    const start = offset + run * sizes.run;
    if (crc32(part.subarray(start, start + sizes.run)) !== checksums[at + run]) return run;
  }
  return -1;
}

/** Lays out a record: the part, and its checksums (little endian) behind it. */
export function encodeRecord(
  sizes: BlockSizes,
  part: Uint8Array,
  offset: number,
  checksums: Uint32Array,
  at: number,
  record: Uint8Array,
): void {
  record.set(part.subarray(offset, offset + sizes.part));
  const view = new DataView(record.buffer, record.byteOffset);
  for (let run = 0; run < sizes.runsPerPart; run++) {
    view.setUint32(sizes.part + run * 4, checksums[at + run]!, true);
  }
}

/** Where a record begins in its file. */
export function recordOffset(sizes: BlockSizes, slot: number): number {
  return HEADER_BYTES + slot * sizes.record;
}

/** Writes all of `data`. @throws {Error} What the system says, or that it took no more bytes. */
export function writeFully(
  files: FileOps,
  handle: number,
  data: Uint8Array,
  position: number,
): void {
  for (let done = 0; done < data.length;) {
    const count = files.write(handle, done === 0 ? data : data.subarray(done), position + done);
    if (count <= 0) throw new Error("the system takes no more bytes");
    done += count;
  }
}

/** Fills `out`. @throws {Error} What the system says, or that the file is too short. */
export function readFully(
  files: FileOps,
  handle: number,
  out: Uint8Array,
  position: number,
): void {
  for (let done = 0; done < out.length;) {
    const count = files.read(handle, done === 0 ? out : out.subarray(done), position + done);
    if (count <= 0) throw new Error(`the file ends ${out.length - done} bytes early`);
    done += count;
  }
}
