/**
 * Building blocks of the request schemas. Every message completes the sentence "`field` ...", and a
 * list stops at its first bad element: a hostile body of millions of bad elements must not become
 * millions of issues.
 *
 * @module
 */
import { z } from "zod";

/** Token ids are 32-bit on the device. */
const MAX_ID = 2 ** 31 - 1;

/** A number within closed bounds. */
export function num(min: number, max: number) {
  const error = `must be a number from ${min} to ${max}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
}

/** A whole number within closed bounds. */
export function int(min: number, max: number) {
  const error = `must be a whole number from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
}

/** A count with no bound of its own besides what the device can count. */
export function count() {
  const error = "must be a whole number, 0 or more";
  return z.int({ error }).min(0, { error }).max(MAX_ID, { error: `must be at most ${MAX_ID}` });
}

/** A boolean. */
export function flag() {
  return z.boolean({ error: "must be true or false" });
}

/** A string of at most `max` UTF-16 units. */
export function text(max = Infinity) {
  const string = z.string({ error: "must be a string" });
  if (max === Infinity) return string;
  return string.max(max, { error: `must have at most ${max} characters` });
}

/** A JSON Schema: what `/openapi.json` says of a field that is checked by hand. */
export type JsonShape = Readonly<Record<string, unknown>>;

/**
 * A field whose value is checked by hand: `read` returns it or throws {@linkcode BadValue}.
 *
 * @param shape What it takes, for people and programs that read `/openapi.json`.
 */
export function checked<T>(read: (value: unknown) => T, shape: JsonShape) {
  return z.unknown().transform((value, context): T => {
    try {
      return read(value);
    } catch (thrown) {
      if (!(thrown instanceof BadValue)) throw thrown;
      context.addIssue({ code: "custom", message: thrown.message, path: [...thrown.path] });
      return z.NEVER;
    }
  }).meta(shape);
}

/** Why a hand-checked value is refused, and where in it. */
export class BadValue extends Error {
  constructor(message: string, readonly path: readonly PropertyKey[] = []) {
    super(message);
  }

  /** The same problem seen from one level further out. */
  under(key: PropertyKey): BadValue {
    return new BadValue(this.message, [key, ...this.path]);
  }
}

/** Checks each element; the error of the first bad one carries its index. */
export function readList<T>(
  value: unknown,
  bounds: { readonly min: number; readonly max: number; readonly what: string },
  read: (element: unknown) => T,
): T[] {
  if (!Array.isArray(value)) throw new BadValue(`must be ${bounds.what}`);
  if (value.length < bounds.min) throw new BadValue("must not be empty");
  if (value.length > bounds.max) {
    throw new BadValue(`must have at most ${bounds.max} entries, not ${value.length}`);
  }
  return value.map((element: unknown, index) => {
    try {
      return read(element);
    } catch (thrown) {
      throw thrown instanceof BadValue ? thrown.under(index) : thrown;
    }
  });
}

/** Reads a value by a schema; the first issue becomes a {@linkcode BadValue}. */
export function readBy<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new BadValue(issue?.message ?? "is not valid", issue?.path ?? []);
}

/** Shape of a token id. */
export const ID_SHAPE = { type: "integer", minimum: 0, maximum: MAX_ID } as const;

/** Shape of a list of token ids. */
export const IDS_SHAPE = { type: "array", items: ID_SHAPE } as const;

/** A token id; whether the vocabulary has it is checked where the model is known. */
export function readId(value: unknown): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > MAX_ID) {
    throw new BadValue("must be a token id: a whole number, 0 or more");
  }
  return value;
}

/** A list of token ids. */
export function readIds(value: unknown, max = Infinity): number[] {
  return readList(value, { min: 0, max, what: "a list of token ids" }, readId);
}
