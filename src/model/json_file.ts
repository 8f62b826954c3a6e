/** JSON of a model folder, read within bounds. @module */

import { ModelFileError } from "./errors.ts";
import { asNotFound, messageOf, ModelFile } from "./model_file.ts";

/** What a file may need at most; checked before anything is parsed. */
export interface JsonLimits {
  readonly bytes: number;
  /** Levels of arrays and objects. */
  readonly depth: number;
  /** Values of all kinds, about. */
  readonly values: number;
}

/** Bounds for small files of settings. */
export const SETTINGS_LIMITS: JsonLimits = { bytes: 4 << 20, depth: 32, values: 1 << 18 };

/** Bounds for `tokenizer.json`; the largest in use have 33 MB and two million values. */
export const TOKENIZER_LIMITS: JsonLimits = { bytes: 64 << 20, depth: 32, values: 1 << 22 };

/** A JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;

/**
 * Reads a file that holds one JSON object; undefined if there is no such file.
 *
 * @throws {ModelFileError} `malformed`, or `not_found` if it is there and cannot be read.
 */
export function readJsonObject(path: string, limits: JsonLimits): JsonObject | undefined {
  try {
    Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw asNotFound(error, path);
  }
  const file = ModelFile.open(path);
  try {
    if (file.size > limits.bytes) {
      throw malformed(path, `it has ${file.size} bytes, the limit is ${limits.bytes}`);
    }
    const bytes = new Uint8Array(file.size);
    file.readFully(bytes, 0);
    return parseJsonObject(path, bytes, limits);
  } finally {
    file.close();
  }
}

/**
 * Parses bytes that must be one JSON object whose top level names nothing twice.
 *
 * @throws {ModelFileError} `malformed`.
 */
export function parseJsonObject(path: string, bytes: Uint8Array, limits: JsonLimits): JsonObject {
  const numTopKeys = scan(path, bytes, limits);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw malformed(path, messageOf(error));
  }
  if (!isJsonObject(value)) throw malformed(path, "it is not an object");
  if (Object.keys(value).length !== numTopKeys) throw malformed(path, "a key is there twice");
  return value;
}

/** Whether a parsed value is an object and not null or an array. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Counts what parsing would build; returns the number of keys of the outermost object. */
function scan(path: string, bytes: Uint8Array, limits: JsonLimits): number {
  let depth = 0;
  let values = 0;
  let topKeys = 0;
  for (let i = 0; i < bytes.length; i++) {
    switch (bytes[i]) {
      case QUOTE:
        for (i++; i < bytes.length && bytes[i] !== QUOTE; i++) if (bytes[i] === BACKSLASH) i++;
        break;
      case 0x5b: // [
      case 0x7b: // {
        if (++depth > limits.depth) {
          throw malformed(path, `it is nested over ${limits.depth} deep`);
        }
        values++;
        break;
      case 0x5d: // ]
      case 0x7d: // }
        depth--;
        break;
      case 0x2c: // ,
        values++;
        break;
      case 0x3a: // :
        if (depth === 1) topKeys++;
        break;
    }
    if (values > limits.values) throw malformed(path, `it has over ${limits.values} values`);
  }
  return topKeys;
}

function malformed(path: string, problem: string): ModelFileError {
  return new ModelFileError("malformed", path, `${path} is not valid JSON for a model: ${problem}`);
}
