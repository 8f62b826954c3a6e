/**
 * The alphabet of byte-level BPE: every byte has one printable character, so that any text can be
 * written with a vocabulary of ordinary strings.
 *
 * @module
 */

const BYTE_TO_CHAR: string[] = [];
const CHAR_TO_BYTE = new Map<string, number>();

// Printable bytes stand for themselves; the others take the code points from U+0100 on, in order.
let nextCode = 0x100;
for (let byte = 0; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
    byte >= 0xae;
  const char = String.fromCharCode(printable ? byte : nextCode++);
  BYTE_TO_CHAR.push(char);
  CHAR_TO_BYTE.set(char, byte);
}

const encoder = new TextEncoder();

/** The 256 characters, by byte. */
export const BYTE_CHARS: readonly string[] = BYTE_TO_CHAR;

/** UTF-8 bytes of a text; a lone surrogate becomes U+FFFD. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Bytes written in the byte-level alphabet. */
export function bytesToChars(bytes: Uint8Array): string {
  let chars = "";
  for (const byte of bytes) chars += BYTE_TO_CHAR[byte];
  return chars;
}

/**
 * Bytes that a vocabulary entry stands for. An entry with a character outside the alphabet is
 * taken literally, as added tokens are.
 */
export function charsToBytes(chars: string): Uint8Array {
  const bytes = new Uint8Array(chars.length);
  for (let i = 0; i < chars.length; i++) {
    const byte = CHAR_TO_BYTE.get(chars.charAt(i));
    if (byte === undefined) return utf8(chars);
    bytes[i] = byte;
  }
  return bytes;
}
