/** Names of prefix blocks: a chain of digests over token ids. @module */
import { createHash } from "node:crypto";
import { BLOCK_ROWS, type StoreShape } from "./types.ts";

/**
 * A SHA-256 (hex) for each full block of 32 ids. Each covers all ids up to the end of its block, so
 * equal keys mean equal prefixes.
 *
 * @param fingerprint - Of the model.
 * @param salt - Keeps apart who shall not share.
 * @throws {RangeError} If an id is no unsigned 32-bit integer.
 */
export function prefixKeys(
  fingerprint: string,
  shape: StoreShape,
  ids: ArrayLike<number>,
  salt = "",
): string[] {
  const { numLayers, numKvHeads, headDim, bytesPerValue } = shape;
  const root = [fingerprint, numLayers, numKvHeads, headDim, bytesPerValue, BLOCK_ROWS, salt];
  let above: Uint8Array = createHash("sha256").update(JSON.stringify(root)).digest();
  const keys: string[] = [];
  const text = new Uint8Array(BLOCK_ROWS * 4);
  const view = new DataView(text.buffer);
  for (let start = 0; start + BLOCK_ROWS <= ids.length; start += BLOCK_ROWS) {
    for (let i = 0; i < BLOCK_ROWS; i++) {
      const id = ids[start + i]!;
      if (id >>> 0 !== id) throw new RangeError(`a token id must be a whole number, not ${id}`);
      view.setUint32(i * 4, id, true);
    }
    const digest = createHash("sha256").update(above).update(text).digest();
    keys.push(digest.toString("hex"));
    above = digest;
  }
  return keys;
}
