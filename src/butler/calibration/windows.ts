/** Which pieces of the texts a calibration reads. @module */

/** Sizes of a calibration. */
export interface WindowOptions {
  /** Tokens in all, about. */
  readonly tokens: number;
  /** Tokens of a window, at most. */
  readonly context: number;
}

/** More characters than this for a token are rare in any text. */
const CHARACTERS_PER_TOKEN = 16;
/** How far a cut may move to fall between words. */
const WORD_LENGTH = 200;

/**
 * Cuts windows of equal length out of texts: each text gives its share of them, evenly spaced, so
 * that a long text is sampled and not just begun. Every window starts a sequence of its own, and so
 * at position 0. A text that is too short gives all it has.
 *
 * @param encode Ids of a text, without BOS. Called with parts of long texts.
 * @param prefix Ids before each window, counted in its length.
 * @returns Windows of `prefix` and at least one more token; none if the texts give no token.
 */
export function cutWindows(
  texts: readonly string[],
  encode: (text: string) => readonly number[],
  prefix: readonly number[],
  { tokens, context }: WindowOptions,
): number[][] {
  const count = Math.max(Math.ceil(tokens / context), texts.length);
  const length = Math.min(context, Math.ceil(tokens / count)) - prefix.length;
  if (length < 1) return [];
  return texts.flatMap((text, index) => {
    const share = Math.floor(count / texts.length) + (index < count % texts.length ? 1 : 0);
    return fromText(text, encode, share, length).map((ids) => [...prefix, ...ids]);
  });
}

function fromText(
  text: string,
  encode: (text: string) => readonly number[],
  share: number,
  length: number,
): (readonly number[])[] {
  const span = length * CHARACTERS_PER_TOKEN;
  // A long text need not be encoded as a whole.
  if (text.length > 2 * share * span) {
    return starts(text.length - span - WORD_LENGTH, share).map((start) => {
      const from = nextWord(text, start);
      return encode(text.slice(from, nextWord(text, from + span))).slice(0, length);
    }).filter((ids) => ids.length > 0);
  }
  const ids = encode(text);
  const windows = Math.min(share, Math.ceil(ids.length / length));
  // Where the text is just long enough, windows follow each other; the last one may be shorter.
  const even = ids.length >= windows * length;
  const from = even
    ? starts(ids.length - length, windows)
    : Array.from({ length: windows }, (_, index) => index * length);
  return from.map((start) => ids.slice(start, start + length));
}

/** `count` places from 0 to `last`, evenly spaced. */
function starts(last: number, count: number): number[] {
  return Array.from(
    { length: count },
    (_, index) => count === 1 ? 0 : Math.floor(last * index / (count - 1)),
  );
}

/** The first place from `start` on at which a word begins, or at least no character is cut. */
function nextWord(text: string, start: number): number {
  if (start <= 0) return 0;
  const blank = text.slice(start - 1, start - 1 + WORD_LENGTH).search(/\s\S/);
  if (blank >= 0) return start + blank;
  const isLowSurrogate = (text.charCodeAt(start) & 0xfc00) === 0xdc00;
  return isLowSurrogate ? start + 1 : start;
}
