/**
 * A bounded reader for the front part of a GGUF file. Every length in such a file may lie, so
 * nothing is allocated or skipped before it has been compared with the bytes that are there.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import { endsEarly, type ModelFile } from "./model_file.ts";

/** Metadata and tensor table may not be longer than this; real vocabularies need under 16 MiB. */
export const MAX_HEADER_BYTES = 64 << 20;

const WINDOW_BYTES = 256 << 10;
const TWO_32 = 0x1_0000_0000;

/** Reads numbers, strings and gaps one after another, through a window of the file. */
export class GgufCursor {
  readonly #window: Uint8Array;
  readonly #view: DataView;
  readonly #units = new Uint16Array(256);
  #start = 0;
  #filled = 0;
  /** Place in the file of the next byte. */
  position = 0;

  constructor(readonly file: ModelFile) {
    this.#window = new Uint8Array(Math.min(WINDOW_BYTES, file.size));
    this.#view = new DataView(this.#window.buffer);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }
  i8(): number {
    return this.#view.getInt8(this.#take(1));
  }
  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }
  i16(): number {
    return this.#view.getInt16(this.#take(2), true);
  }
  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }
  i32(): number {
    return this.#view.getInt32(this.#take(4), true);
  }
  f32(): number {
    return this.#view.getFloat32(this.#take(4), true);
  }
  f64(): number {
    return this.#view.getFloat64(this.#take(8), true);
  }
  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }
  i64(): bigint {
    return this.#view.getBigInt64(this.#take(8), true);
  }

  /**
   * An unsigned 64-bit count, length or offset.
   *
   * @param limit - Largest value that makes sense here, at most 2^53 - 1.
   * @throws {ModelFileError} `malformed` if the value is larger.
   */
  count(what: string, limit: number): number {
    const at = this.#take(8);
    const value = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * TWO_32;
    if (value > limit) {
      throw this.malformed(`${what} at byte ${this.position - 8} is over the limit of ${limit}`);
    }
    return value;
  }

  /** Passes over `length` bytes, which must be there. */
  skip(length: number): void {
    this.#mustHave(length);
    this.position += length;
  }

  /**
   * A string: its length as a 64-bit number, then UTF-8.
   *
   * @param strict - Refuse invalid UTF-8 instead of putting U+FFFD in its place.
   */
  text(what: string, limit: number, strict: boolean): string {
    const length = this.count(`the length of ${what}`, limit);
    if (length > this.#window.length) {
      this.#mustHave(length);
      const bytes = new Uint8Array(length);
      this.file.readFully(bytes, this.position);
      this.position += length;
      return this.#decode(bytes, what, strict);
    }
    const at = this.#take(length);
    return this.#shortText(at, length) ??
      this.#decode(this.#window.subarray(at, at + length), what, strict);
  }

  /** Passes over a string. */
  skipText(what: string, limit: number): void {
    this.skip(this.count(`the length of ${what}`, limit));
  }

  malformed(message: string): ModelFileError {
    const path = this.file.path;
    return new ModelFileError("malformed", path, `${path} is not a valid GGUF file: ${message}`);
  }

  /**
   * Short strings of one- and two-byte characters, without the cost of a decoder call: a
   * vocabulary has a hundred thousand of them. Undefined for anything else.
   */
  #shortText(at: number, length: number): string | undefined {
    if (length > this.#units.length) return undefined;
    let n = 0;
    for (let i = at; i < at + length; i++) {
      const byte = this.#window[i]!;
      if (byte < 0x80) {
        this.#units[n++] = byte;
      } else if (byte >= 0xc2 && byte < 0xe0 && i + 1 < at + length) {
        const next = this.#window[++i]!;
        if (next >> 6 !== 2) return undefined;
        this.#units[n++] = (byte & 31) << 6 | next & 63;
      } else {
        return undefined;
      }
    }
    return Reflect.apply(String.fromCharCode, null, this.#units.subarray(0, n));
  }

  #decode(bytes: Uint8Array, what: string, strict: boolean): string {
    try {
      return new TextDecoder("utf-8", { fatal: strict, ignoreBOM: true }).decode(bytes);
    } catch {
      throw this.malformed(`${what} before byte ${this.position} is not UTF-8`);
    }
  }

  #mustHave(length: number): void {
    if (length > this.file.size - this.position) throw this.#short();
    if (length > MAX_HEADER_BYTES - this.position) {
      throw this.malformed(`its metadata is over the limit of ${MAX_HEADER_BYTES} bytes`);
    }
  }

  #short(): ModelFileError {
    return endsEarly(this.file.path, this.file.size);
  }

  /** Index in the window of the next `length` (at most a window) bytes, and moves past them. */
  #take(length: number): number {
    let at = this.position - this.#start;
    if (at < 0 || at + length > this.#filled) {
      this.#mustHave(length);
      this.#start = this.position;
      this.#filled = this.file.readSome(this.#window, this.position);
      at = 0;
      if (length > this.#filled) throw this.#short();
    }
    this.position += length;
    return at;
  }
}
