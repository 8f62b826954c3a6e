/** Identity of weights: quickly for binding things to a model, in full for checking a file. @module */

import { createHash } from "node:crypto";
import { ModelFile } from "./model_file.ts";
import type { ModelConfig, WeightTensor } from "./types.ts";

/** Bytes of each tensor that go into a fingerprint. */
const SAMPLE_BYTES = 4096;
const PIECE_BYTES = 4 << 20;

/**
 * Sha256 (hex) over the configuration, the tensor table and the first bytes of each tensor. Names
 * and the trained length are left out: they do not change what the model computes.
 */
export async function fingerprintOf(
  config: ModelConfig,
  tensors: ReadonlyMap<string, WeightTensor>,
): Promise<string> {
  const { architecture: _a, name: _n, contextLength: _c, ...computed } = config;
  const hash = createHash("sha256");
  // Nine digits tell all 32-bit floats apart and do not depend on the last bit of Math.pow.
  const digits = (_key: string, value: unknown) =>
    typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(9) : value;
  hash.update(JSON.stringify(sortedEntries(computed), digits));
  const sample = new Uint8Array(SAMPLE_BYTES);
  for (const name of [...tensors.keys()].sort()) {
    const tensor = tensors.get(name)!;
    hash.update(JSON.stringify([name, tensor.type, tensor.rows, tensor.cols]));
    const piece = sample.subarray(0, Math.min(SAMPLE_BYTES, tensor.byteLength));
    await tensor.readInto(piece, 0);
    hash.update(piece);
  }
  return hash.digest("hex");
}

/**
 * Sha256 (hex) of a whole file, read in pieces.
 *
 * @param onProgress - Called with the fraction that is done, at most once a piece.
 * @throws {ModelFileError} If the file cannot be read.
 */
export async function sha256OfFile(
  path: string,
  onProgress?: (fraction: number) => void,
): Promise<string> {
  const file = ModelFile.open(path);
  try {
    const hash = createHash("sha256");
    const piece = new Uint8Array(Math.min(PIECE_BYTES, Math.max(1, file.size)));
    for (let at = 0; at < file.size; at += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, file.size - at));
      file.readFully(part, at);
      hash.update(part);
      onProgress?.((at + part.length) / file.size);
      // Gives progress bars and signals their turn.
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    return hash.digest("hex");
  } finally {
    file.close();
  }
}

function sortedEntries(value: object): [string, unknown][] {
  return Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1);
}
