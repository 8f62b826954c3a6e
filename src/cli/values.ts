/**
 * What the text of a flag or of an environment variable may be, as zod schemas from text to value.
 * Each failure is one sentence that says what was wanted; who asked adds the name and the value.
 *
 * @module
 */
import { z } from "zod";

/** Any text that is not empty. */
export const text = z.string().min(1, "wanted a value");

/** Any text, also none. */
export const anyText = z.string();

/** A whole number within bounds, both included. */
export function integer(min: number, max: number): z.ZodType<number, string> {
  const rule = `wanted a whole number ${range(min, max)}`;
  return z.string().regex(/^[+-]?\d+$/, rule).transform(Number).pipe(
    z.number().refine((value) => value >= min && value <= max, rule),
  );
}

/** A number within bounds, both included. */
export function decimal(min: number, max: number): z.ZodType<number, string> {
  const rule = `wanted a number ${range(min, max)}`;
  return z.string().regex(/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i, rule).transform(Number).pipe(
    z.number().refine((value) => value >= min && value <= max, rule),
  );
}

function range(min: number, max: number): string {
  if (max >= Number.MAX_SAFE_INTEGER) return `of ${min} or more`;
  return `from ${min} to ${max}`;
}

/** One of a few words. */
export function oneOf<const Words extends readonly [string, ...string[]]>(
  words: Words,
): z.ZodType<Words[number], string> {
  return z.enum(words, { error: `wanted ${words.join(" or ")}` });
}

/** Some of a few words, with commas between them. */
export function wordList<const Words extends readonly string[]>(
  words: Words,
): z.ZodType<readonly Words[number][], string> {
  const rule = `wanted some of ${words.join(", ")} with commas between them`;
  return z.string().transform((list) => list.split(",")).pipe(
    z.array(z.enum(words as unknown as readonly [string, ...string[]], { error: rule })).min(
      1,
      rule,
    ),
  ) as unknown as z.ZodType<readonly Words[number][], string>;
}

/** Bytes of each unit: of ten where it says so (`MB`), else of two (`MiB`, `M`). */
const UNITS: ReadonlyMap<string, number> = new Map([
  ["", 1],
  ["b", 1],
  ...["k", "m", "g", "t"].flatMap((letter, index): [string, number][] => [
    [letter, 1024 ** (index + 1)],
    [`${letter}ib`, 1024 ** (index + 1)],
    [`${letter}b`, 1000 ** (index + 1)],
  ]),
]);

/** A size in bytes, `least` or more: `4096`, `512MiB`, `1.5G` (GiB), `10MB` (of ten). */
export function sizeBytes(least: number): z.ZodType<number, string> {
  const rule = "wanted a size: bytes, or a number with KiB, MiB, GiB, TiB (also K, M, G, T), kB, " +
    `MB, GB or TB, ${least} or more in bytes`;
  return z.string().transform((value, context) => {
    const [, number = "", unit = ""] = value.match(/^\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*$/i) ?? [];
    const bytes = Math.round(Number(number) * (UNITS.get(unit.toLowerCase()) ?? NaN));
    if (number !== "" && Number.isSafeInteger(bytes) && bytes >= least) return bytes;
    context.addIssue(rule);
    return z.NEVER;
  });
}

/** `NAME=VALUE`, cut at the first equals sign. */
export const nameValue: z.ZodType<readonly [string, string], string> = z.string()
  .regex(/^[^=\s]+=.+$/s, "wanted NAME=VALUE")
  .transform((pair) => {
    const cut = pair.indexOf("=");
    return [pair.slice(0, cut), pair.slice(cut + 1)] as const;
  });

/** `ID=BIAS`: a token id and what is added to its logit. */
export const tokenBias: z.ZodType<readonly [number, number], string> = z.string()
  .regex(/^\d+=[+-]?(\d+\.?\d*|\.\d+)$/, "wanted ID=BIAS, a token id and a number from -100 to 100")
  .transform((pair) => {
    const [id, bias] = pair.split("=");
    return [Number(id), Number(bias)] as const;
  })
  .pipe(
    z.custom<readonly [number, number]>(
      (pair) => Math.abs((pair as readonly [number, number])[1]) <= 100,
      "wanted ID=BIAS, a token id and a number from -100 to 100",
    ),
  );

/** Words for yes and no in an environment variable. */
export const booleanWord: z.ZodType<boolean, string> = z.string().toLowerCase().pipe(
  z.enum(["1", "true", "on", "yes", "0", "false", "off", "no"], {
    error: "wanted 1, true, on, yes, 0, false, off or no",
  }),
).transform((word) => ["1", "true", "on", "yes"].includes(word));
