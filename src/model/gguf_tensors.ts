/** The tensor table of a GGUF file, checked against the file. @module */

import { ModelFileError } from "./errors.ts";
import type { GgufHeader } from "./gguf_header.ts";
import { endsEarly, type ModelFile } from "./model_file.ts";
import { BLOCK_GEOMETRY, bytesOfWeights } from "./quants.ts";
import { refuseOverlap, type StoredTensor } from "./tensors.ts";
import type { WeightType } from "./types.ts";

/** Names of GGML's storage types, by their code in the file. */
const TYPE_NAMES: Readonly<Record<number, string>> = {
  0: "F32",
  1: "F16",
  2: "Q4_0",
  3: "Q4_1",
  6: "Q5_0",
  7: "Q5_1",
  8: "Q8_0",
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  12: "Q4_K",
  13: "Q5_K",
  14: "Q6_K",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  20: "IQ4_NL",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  30: "BF16",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

/**
 * Places all tensors of a file.
 *
 * @throws {ModelFileError} `unsupported_type`, `truncated`, or `malformed` for a row that is no
 * whole number of blocks and for tensors that overlap.
 */
export function placeGgufTensors(file: ModelFile, header: GgufHeader): Map<string, StoredTensor> {
  const { path } = file;
  const room = file.size - header.dataStart;
  const tensors = new Map<string, StoredTensor>();
  for (const { name, dims, count, typeCode, offset } of header.tensors) {
    const typeName = TYPE_NAMES[typeCode] ?? `number ${typeCode}`;
    if (!isWeightType(typeName)) {
      throw new ModelFileError(
        "unsupported_type",
        path,
        `${path}: tensor ${name} is stored as ${typeName}, which is not supported; use a file in ` +
          Object.keys(BLOCK_GEOMETRY).join(", "),
      );
    }
    const cols = dims[0] ?? 1;
    if (cols % BLOCK_GEOMETRY[typeName].weights !== 0) {
      throw new ModelFileError(
        "malformed",
        path,
        `${path}: rows of tensor ${name} have ${cols} weights, no whole number of ${typeName} blocks`,
      );
    }
    const byteLength = bytesOfWeights(typeName, count);
    if (offset > room || byteLength > room - offset) throw endsEarly(path, file.size);
    tensors.set(name, {
      name,
      type: typeName,
      typeName,
      // The file has the contiguous dimension first, everything here has it last.
      shape: dims.toReversed(),
      file,
      position: header.dataStart + offset,
      byteLength,
    });
  }
  refuseOverlap(path, [...tensors.values()]);
  return tensors;
}

function isWeightType(name: string): name is WeightType {
  return Object.hasOwn(BLOCK_GEOMETRY, name);
}
