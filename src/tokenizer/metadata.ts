/**
 * Checked reading of the tokenizer's part of GGUF metadata. The file is not trusted: every value is
 * looked at before it is used as a length or an id.
 *
 * @module
 */

import { ModelFileError } from "../model/errors.ts";

/** Most tokens and merges a vocabulary may have; the largest in use has 262,144. */
export const MAX_ENTRIES = 1 << 20;
/** Most UTF-16 units that all special tokens may have together. */
export const MAX_SPECIAL_UNITS = 1 << 20;

/** Token kinds of `tokenizer.ggml.token_type`. */
export const TOKEN_TYPE = {
  undefined: 0,
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/** Metadata of one file, with errors that name the key. */
export class TokenizerMetadata {
  constructor(
    private readonly values: Readonly<Record<string, unknown>>,
    private readonly path: string,
  ) {}

  /** An error about this file. */
  malformed(message: string): ModelFileError {
    return new ModelFileError("malformed", this.path, `${this.path}: ${message}`);
  }

  /** An error about something this program has no code for. */
  unsupported(message: string): ModelFileError {
    return new ModelFileError("unsupported_tokenizer", this.path, `${this.path}: ${message}`);
  }

  /** @throws {ModelFileError} If the value is there and is no string. */
  string(key: string): string | undefined {
    const value = this.#value(key);
    if (value === undefined || typeof value === "string") return value;
    throw this.malformed(`${key} must be a string, not ${kindOf(value)}`);
  }

  /** @throws {ModelFileError} If the value is there and is no boolean. */
  boolean(key: string): boolean | undefined {
    const value = this.#value(key);
    if (value === undefined || typeof value === "boolean") return value;
    throw this.malformed(`${key} must be a boolean, not ${kindOf(value)}`);
  }

  /** @throws {ModelFileError} If the value is there and is no id below `vocabSize`. */
  id(key: string, vocabSize: number): number | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    const id = typeof value === "bigint" ? Number(value) : value;
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw this.malformed(
        `${key} must be a token id below ${vocabSize}, not ${kindOf(value)}`,
      );
    }
    return id;
  }

  /** @throws {ModelFileError} If the value is missing, too long or holds something else. */
  strings(key: string): readonly string[] {
    const value = this.#list(key);
    if (value === undefined) throw this.malformed(`${key} is missing`);
    for (let i = 0; i < value.length; i++) {
      if (typeof value[i] !== "string") {
        throw this.malformed(`${key}[${i}] must be a string, not ${kindOf(value[i])}`);
      }
    }
    return value as readonly string[];
  }

  /**
   * Numbers, one for each token.
   *
   * @throws {ModelFileError} If there is another number of them or one is refused by `accept`.
   */
  numbers(
    key: string,
    length: number,
    accept: (value: number) => boolean,
  ): Float64Array | undefined {
    const value = this.#list(key);
    if (value === undefined) return undefined;
    if (value.length !== length) {
      throw this.malformed(`${key} has ${value.length} entries for ${length} tokens`);
    }
    const numbers = new Float64Array(length);
    for (let i = 0; i < length; i++) {
      const item = value[i];
      const number = typeof item === "bigint" ? Number(item) : item;
      if (typeof number !== "number" || !accept(number)) {
        throw this.malformed(`${key}[${i}] is ${kindOf(item)}, which it cannot be`);
      }
      numbers[i] = number;
    }
    return numbers;
  }

  #list(key: string): ArrayLike<unknown> | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) && !isNumberArray(value)) {
      throw this.malformed(`${key} must be an array, not ${kindOf(value)}`);
    }
    if (value.length > MAX_ENTRIES) {
      throw this.malformed(`${key} has ${value.length} entries, more than ${MAX_ENTRIES}`);
    }
    return value;
  }

  #value(key: string): unknown {
    return Object.hasOwn(this.values, key) ? this.values[key] : undefined;
  }
}

function isNumberArray(value: unknown): value is ArrayLike<unknown> {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

/** A value for an error message, short whatever it is. */
function kindOf(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return value === null ? "null" : typeof value;
}
