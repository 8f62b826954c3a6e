/**
 * Bounds what a JSON text is made of, before it is parsed: a parser holds up everybody else, and
 * takes a hundred times as long for small objects as for text of the same size.
 *
 * @module
 */
import { bodyTooComplex } from "./refusals.ts";

/** Levels of nesting. */
const MAX_DEPTH = 128;
/** Lists and objects together, and members of objects; the longest conversation has some 80,000. */
const MAX_CONTAINERS = 131_072;
const MAX_MEMBERS = 131_072;
/** Members of the body itself: each is looked at, known or not. */
const MAX_FIELDS = 1024;
/** Elements of lists and members; twice the token ids that any route takes. */
const MAX_VALUES = 2_097_152;

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_LIST = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** Counts as the bytes come. Whether they are JSON is for the parser to say. */
export class JsonBounds {
  #depth = 0;
  #numContainers = 0;
  #numMembers = 0;
  #numFields = 0;
  #numValues = 0;
  #inString = false;
  /** The next byte belongs to an escape. */
  #escaped = false;

  /** @throws {RequestError} 400 past a bound. */
  take(bytes: Uint8Array): void {
    let depth = this.#depth;
    let inString = this.#inString;
    let at = this.#escaped ? 1 : 0;
    if (bytes.length === 0) return;
    for (; at < bytes.length; at++) {
      const byte = bytes[at];
      if (inString) {
        if (byte === QUOTE) inString = false;
        else if (byte === BACKSLASH) at++;
      } else if (byte === QUOTE) inString = true;
      else if (byte === COMMA) this.#numValues++;
      else if (byte === COLON) {
        this.#numMembers++;
        if (depth === 1) this.#numFields++;
      } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
        this.#numContainers++;
        if (++depth > MAX_DEPTH) throw bodyTooComplex(MAX_DEPTH, "levels of nesting");
      } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    }
    this.#depth = depth;
    this.#inString = inString;
    this.#escaped = at > bytes.length;
    if (this.#numContainers > MAX_CONTAINERS) {
      throw bodyTooComplex(MAX_CONTAINERS, "lists and objects");
    }
    if (this.#numMembers > MAX_MEMBERS) throw bodyTooComplex(MAX_MEMBERS, "members of objects");
    if (this.#numFields > MAX_FIELDS) throw bodyTooComplex(MAX_FIELDS, "fields");
    if (this.#numValues > MAX_VALUES) throw bodyTooComplex(MAX_VALUES, "values");
  }
}
