/**
 * The front part of a GGUF file: metadata and tensor table. One pass checks the whole structure
 * and keeps only where each value stands; values are read when they are asked for, so a file that
 * is refused costs no memory for its vocabulary.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import { GgufCursor } from "./gguf_cursor.ts";
import type { ModelFile } from "./model_file.ts";

const MAX_KEYS = 4096;
const MAX_KEY_BYTES = 1024;
const MAX_TENSORS = 65536;
const MAX_TENSOR_NAME_BYTES = 256;
const MAX_DIMENSIONS = 4;
const MAX_ARRAY_DEPTH = 4;
/** Elements of all arrays together: three arrays for the largest vocabularies are 800,000. */
const MAX_ARRAY_ELEMENTS = 1 << 21;
const MAX_STRING_BYTES = 8 << 20;
const MAX_ALIGNMENT = 1 << 20;
const DEFAULT_ALIGNMENT = 32;

/** Codes of metadata types in the file. */
const enum ValueType {
  U8,
  I8,
  U16,
  I16,
  U32,
  I32,
  F32,
  Bool,
  String,
  Array,
  U64,
  I64,
  F64,
}

/** Bytes of the types that have a fixed size, by code; 0 for the others. */
const FIXED_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8] as const;

/** A line of the tensor table, as it stands in the file. */
export interface GgufTensorInfo {
  readonly name: string;
  /** Innermost (contiguous) dimension first; 1 to 4 of them, each at least 1. */
  readonly dims: readonly number[];
  /** Number of weights; checked to be a safe integer. */
  readonly count: number;
  /** GGML's code of the storage type. */
  readonly typeCode: number;
  /** Bytes after the start of the data part; a multiple of the alignment. */
  readonly offset: number;
}

/** What {@linkcode readGgufHeader} gives. */
export interface GgufHeader {
  readonly version: number;
  readonly metadata: GgufMetadata;
  readonly tensors: readonly GgufTensorInfo[];
  /** Place in the file where tensor data begins. */
  readonly dataStart: number;
}

interface Entry {
  readonly type: number;
  readonly position: number;
}

/** Metadata by key, read from the file when asked for. Valid until the file is closed. */
export class GgufMetadata {
  readonly #entries: ReadonlyMap<string, Entry>;
  readonly #cursor: GgufCursor;

  constructor(entries: ReadonlyMap<string, Entry>, cursor: GgufCursor) {
    this.#entries = entries;
    this.#cursor = cursor;
  }

  keys(): IterableIterator<string> {
    return this.#entries.keys();
  }

  /**
   * Value of a key: number, bigint (only where a number would lose digits), boolean, string, array
   * of these; undefined if the file does not have it.
   *
   * @throws {ModelFileError} If the bytes changed since the file was opened.
   */
  get(key: string): unknown {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#cursor.position = entry.position;
    return readValue(this.#cursor, entry.type, key);
  }

  /** Number of elements of a list of strings, without reading them; undefined for anything else. */
  numStrings(key: string): number | undefined {
    const entry = this.#entries.get(key);
    if (entry?.type !== ValueType.Array) return undefined;
    this.#cursor.position = entry.position;
    if (this.#cursor.u32() !== ValueType.String) return undefined;
    return this.#cursor.count(`the number of elements of ${show(key)}`, MAX_ARRAY_ELEMENTS);
  }

  /** All values whose key begins with one of the prefixes, as plain data. */
  pick(...prefixes: string[]): Record<string, unknown> {
    const picked: [string, unknown][] = [];
    for (const key of this.#entries.keys()) {
      if (prefixes.some((prefix) => key.startsWith(prefix))) picked.push([key, this.get(key)]);
    }
    return Object.fromEntries(picked);
  }
}

/**
 * Reads and checks metadata and tensor table.
 *
 * @throws {ModelFileError} `unknown_format`, `truncated` or `malformed`.
 */
export function readGgufHeader(file: ModelFile): GgufHeader {
  const cursor = new GgufCursor(file);
  const version = readVersion(cursor);
  const numTensors = cursor.count("the number of tensors", MAX_TENSORS);
  const numKeys = cursor.count("the number of metadata keys", MAX_KEYS);

  const entries = new Map<string, Entry>();
  const budget = { elements: MAX_ARRAY_ELEMENTS };
  for (let i = 0; i < numKeys; i++) {
    const key = cursor.text("a metadata key", MAX_KEY_BYTES, true);
    if (entries.has(key)) throw cursor.malformed(`the key ${show(key)} is there twice`);
    const type = cursor.u32();
    entries.set(key, { type, position: cursor.position });
    skipValue(cursor, type, key, 0, budget);
  }

  const tensorTable = cursor.position;
  const metadata = new GgufMetadata(entries, cursor);
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  if (
    typeof alignment !== "number" || alignment < 1 || alignment > MAX_ALIGNMENT ||
    (alignment & (alignment - 1)) !== 0 || !Number.isInteger(alignment)
  ) {
    throw cursor.malformed(
      `general.alignment is ${show(String(alignment))}, not a power of two up to ${MAX_ALIGNMENT}`,
    );
  }

  cursor.position = tensorTable;
  const tensors = readTensorTable(cursor, numTensors, alignment);
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  return { version, metadata, tensors, dataStart };
}

function readVersion(cursor: GgufCursor): number {
  const { path, size } = cursor.file;
  const magic = size < 4 ? "" : String.fromCharCode(cursor.u8(), cursor.u8(), cursor.u8()) +
    String.fromCharCode(cursor.u8());
  if (magic !== "GGUF") {
    const found = size === 0 ? "is empty" : `begins with ${JSON.stringify(magic)}`;
    throw new ModelFileError(
      "unknown_format",
      path,
      `${path} ${found} and is no GGUF file: give a .gguf file or a Hugging Face folder`,
    );
  }
  const version = cursor.u32();
  if (version === 2 || version === 3) return version;
  // A version in the upper half only is a small number in the other byte order.
  const reason = version !== 0 && (version & 0xffff) === 0
    ? "it is big-endian; convert it to little-endian"
    : `GGUF version ${version} is not supported; convert it to version 3`;
  throw new ModelFileError("unknown_format", path, `${path} cannot be read: ${reason}`);
}

function readTensorTable(cursor: GgufCursor, num: number, alignment: number): GgufTensorInfo[] {
  const tensors: GgufTensorInfo[] = [];
  const names = new Set<string>();
  for (let i = 0; i < num; i++) {
    const name = cursor.text("a tensor name", MAX_TENSOR_NAME_BYTES, true);
    if (names.has(name)) throw cursor.malformed(`the tensor ${show(name)} is there twice`);
    names.add(name);
    const numDims = cursor.u32();
    if (numDims < 1 || numDims > MAX_DIMENSIONS) {
      throw cursor.malformed(`the tensor ${show(name)} has ${numDims} dimensions`);
    }
    const dims: number[] = [];
    let count = 1;
    for (let d = 0; d < numDims; d++) {
      const dim = cursor.count(`a dimension of ${show(name)}`, Number.MAX_SAFE_INTEGER);
      if (dim < 1 || count > Number.MAX_SAFE_INTEGER / dim) {
        throw cursor.malformed(`the tensor ${show(name)} has an impossible shape`);
      }
      count *= dim;
      dims.push(dim);
    }
    const typeCode = cursor.u32();
    const offset = cursor.count(`the offset of ${show(name)}`, Number.MAX_SAFE_INTEGER);
    if (offset % alignment !== 0) {
      throw cursor.malformed(`the offset of ${show(name)} is not a multiple of ${alignment}`);
    }
    tensors.push({ name, dims, count, typeCode, offset });
  }
  return tensors;
}

function skipValue(
  cursor: GgufCursor,
  type: number,
  key: string,
  depth: number,
  budget: { elements: number },
): void {
  const bytes = FIXED_BYTES[type];
  if (bytes === undefined) {
    throw cursor.malformed(`the value of ${show(key)} has the unknown type ${type}`);
  }
  if (bytes > 0) return cursor.skip(bytes);
  if (type === ValueType.String) {
    return cursor.skipText(`the value of ${show(key)}`, MAX_STRING_BYTES);
  }
  if (depth === MAX_ARRAY_DEPTH) {
    throw cursor.malformed(`the arrays of ${show(key)} are nested over ${MAX_ARRAY_DEPTH} deep`);
  }
  const inner = cursor.u32();
  const count = cursor.count(`the number of elements of ${show(key)}`, budget.elements);
  budget.elements -= count;
  const innerBytes = FIXED_BYTES[inner];
  if (innerBytes !== undefined && innerBytes > 0) return cursor.skip(count * innerBytes);
  if (innerBytes === undefined) {
    throw cursor.malformed(`the elements of ${show(key)} have the unknown type ${inner}`);
  }
  for (let i = 0; i < count; i++) skipValue(cursor, inner, key, depth + 1, budget);
}

/** Only for values that {@linkcode skipValue} has passed: their bounds are known to be good. */
function readValue(cursor: GgufCursor, type: number, key: string): unknown {
  switch (type) {
    case ValueType.U8:
      return cursor.u8();
    case ValueType.I8:
      return cursor.i8();
    case ValueType.U16:
      return cursor.u16();
    case ValueType.I16:
      return cursor.i16();
    case ValueType.U32:
      return cursor.u32();
    case ValueType.I32:
      return cursor.i32();
    case ValueType.F32:
      return cursor.f32();
    case ValueType.F64:
      return cursor.f64();
    case ValueType.Bool:
      return cursor.u8() !== 0;
    case ValueType.U64:
      return narrow(cursor.u64());
    case ValueType.I64:
      return narrow(cursor.i64());
    case ValueType.String:
      return cursor.text(`the value of ${show(key)}`, MAX_STRING_BYTES, false);
    case ValueType.Array: {
      const inner = cursor.u32();
      const count = cursor.count(`the number of elements of ${show(key)}`, MAX_ARRAY_ELEMENTS);
      const values: unknown[] = [];
      for (let i = 0; i < count; i++) values.push(readValue(cursor, inner, key));
      return values;
    }
    default:
      throw cursor.malformed(`the value of ${show(key)} has the unknown type ${type}`);
  }
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** A name from the file, fit for a message. */
function show(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}...` : name);
}
