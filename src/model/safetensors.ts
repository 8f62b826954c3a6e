/** The header of a `.safetensors` file: 8 bytes of length, JSON, then tensor data. @module */

import { z } from "zod";
import { ModelFileError } from "./errors.ts";
import { type JsonLimits, type JsonObject, parseJsonObject } from "./json_file.ts";
import { endsEarly, type ModelFile } from "./model_file.ts";
import { bytesOfWeights } from "./quants.ts";
import { refuseOverlap, type StoredTensor } from "./tensors.ts";
import type { WeightType } from "./types.ts";

/** 16 MiB hold the table of 100,000 tensors. */
const HEADER_LIMITS: JsonLimits = { bytes: 16 << 20, depth: 4, values: 1 << 19 };

const TYPES: Readonly<Record<string, WeightType>> = { F32: "F32", F16: "F16", BF16: "BF16" };

const size = z.int().min(0);
const entrySchema = z.object({
  dtype: z.string().max(32),
  shape: z.array(size).max(8),
  data_offsets: z.tuple([size, size]),
});

/** Most entries of the free text in a header; real files have a handful. */
const MAX_METADATA = 256;
const metadataSchema = z.record(z.string(), z.string().max(1 << 20));

interface Header {
  readonly json: JsonObject;
  /** Where the tensor data begins. */
  readonly dataStart: number;
}

function malformed(path: string, problem: string): ModelFileError {
  return new ModelFileError(
    "malformed",
    path,
    `${path} is not a valid safetensors file: ${problem}`,
  );
}

function readHeader(file: ModelFile): Header {
  const { path } = file;
  const prefix = new Uint8Array(8);
  file.readFully(prefix, 0);
  const headerBytes = new DataView(prefix.buffer).getBigUint64(0, true);
  if (headerBytes > BigInt(HEADER_LIMITS.bytes)) {
    throw malformed(
      path,
      `its header claims ${headerBytes} bytes, the limit is ${HEADER_LIMITS.bytes}`,
    );
  }
  if (Number(headerBytes) > file.size - 8) throw endsEarly(path, file.size);
  const header = new Uint8Array(Number(headerBytes));
  file.readFully(header, 8);
  return { json: parseJsonObject(path, header, HEADER_LIMITS), dataStart: 8 + header.length };
}

/**
 * Whether a file may be one of these: the brace of a header follows its length. A file of another kind
 * is told from a damaged one by that; too short a file is not judged.
 */
export function beginsAsSafetensors(file: ModelFile): boolean {
  const start = new Uint8Array(9);
  if (file.size < start.length) return true;
  file.readFully(start, 0);
  return start[8] === "{".charCodeAt(0);
}

/**
 * Reads the free text that a file says of itself; empty if it says nothing.
 *
 * @throws {ModelFileError} `truncated` or `malformed`.
 */
export function readSafetensorsMetadata(file: ModelFile): ReadonlyMap<string, string> {
  const parsed = metadataSchema.safeParse(readHeader(file).json["__metadata__"] ?? {});
  if (!parsed.success) throw malformed(file.path, "its metadata is not text under names");
  const entries = Object.entries(parsed.data);
  if (entries.length > MAX_METADATA) {
    throw malformed(file.path, `it has ${entries.length} entries of metadata`);
  }
  return new Map(entries);
}

/**
 * Reads the tensor table of one file.
 *
 * @throws {ModelFileError} `truncated` or `malformed`.
 */
export function readSafetensors(file: ModelFile): Map<string, StoredTensor> {
  const { path } = file;
  const { json, dataStart } = readHeader(file);
  const room = file.size - dataStart;

  const tensors = new Map<string, StoredTensor>();
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") continue;
    const label = JSON.stringify(name.slice(0, 200));
    const entry = entrySchema.safeParse(value);
    if (!entry.success) throw malformed(path, `the entry of tensor ${label} is not valid`);
    const { dtype, shape, data_offsets: [begin, end] } = entry.data;
    if (begin > end) throw malformed(path, `the offsets of tensor ${label} are in the wrong order`);
    if (end > room) throw endsEarly(path, file.size);
    const count = shape.reduce((product, n) => product * n, 1);
    if (!Number.isSafeInteger(count)) {
      throw malformed(path, `tensor ${label} has an impossible shape`);
    }
    const type = Object.hasOwn(TYPES, dtype) ? TYPES[dtype] : undefined;
    // Tensors of other types may be there as long as the model does not need them.
    if (type && bytesOfWeights(type, count) !== end - begin) {
      throw malformed(path, `tensor ${label} has ${end - begin} bytes, not those of its shape`);
    }
    tensors.set(name, {
      name,
      type,
      typeName: dtype,
      shape,
      file,
      position: dataStart + begin,
      byteLength: end - begin,
    });
  }
  refuseOverlap(path, [...tensors.values()]);
  return tensors;
}
