/**
 * Flags are declared once, and parsing, `--help` and the reading of the environment all come from
 * that declaration. A flag under the key `maxSeqs` is written `--max-seqs` on the command line and
 * `TOKENBUTLER_MAX_SEQS` in the environment; the command line wins.
 *
 * @module
 */
import { type OptionShape, splitArguments } from "std-cli";
import type { z } from "zod";
import { nearest } from "../suggest.ts";
import { booleanWord } from "./values.ts";

/** What all flags of one kind have; `Value` is the type of the setting. */
export interface Flag<Value> {
  readonly kind: "value" | "list" | "switch";
  /** Heading in `--help`. */
  readonly group: string;
  /** What it does, for `--help`; no full stop. */
  readonly help: string;
  /** Stands for the value in `--help`; absent for a switch. */
  readonly placeholder?: string;
  readonly short?: string;
  /** Other spellings that users know from elsewhere. */
  readonly aliases?: readonly string[];
  /** The setting when neither command line nor environment says anything. */
  readonly fallback: Value;
  /** The fallback in words, where its value alone would not explain it. */
  readonly fallbackText?: string;
  /** Its value is shown nowhere, not even a wrong one. */
  readonly secret?: boolean;
  /** Text to value; null for a switch. */
  readonly schema: z.ZodType<unknown, string> | null;
}

/** Flags by key. */
export type Flags = Readonly<Record<string, Flag<unknown>>>;

/** Settings by key, as the declaration types them. */
export type Settings<F extends Flags> = {
  readonly [Key in keyof F]: F[Key] extends Flag<infer Value> ? Value : never;
};

type Common = Pick<
  Flag<unknown>,
  "group" | "help" | "short" | "aliases" | "fallbackText" | "secret"
>;

/** A flag with one value; the last one given counts. */
export function valueFlag<Value, Fallback = Value>(
  spec: Common & {
    readonly placeholder: string;
    readonly schema: z.ZodType<Value, string>;
    readonly fallback: Fallback;
  },
): Flag<Value | Fallback> {
  return { kind: "value", ...spec };
}

/** A flag that can be given several times. */
export function listFlag<Value>(
  spec: Common & { readonly placeholder: string; readonly schema: z.ZodType<Value, string> },
): Flag<readonly Value[]> {
  return { kind: "list", fallback: [], ...spec };
}

/** A flag without a value; `--no-NAME` says no where the environment says yes. */
export function switchFlag(spec: Common): Flag<boolean> {
  return { kind: "switch", fallback: false, schema: null, ...spec };
}

/** A switch that can also be left open, so that something else decides: its setting is then null. */
export function triStateFlag(
  spec: Common & { readonly fallbackText: string },
): Flag<boolean | null> {
  return { kind: "switch", fallback: null, schema: null, ...spec };
}

/** Something wrong on the command line or in the environment. Exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** `maxSeqs` to `max-seqs`. */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** `maxSeqs` to `TOKENBUTLER_MAX_SEQS`. */
export function envName(key: string): string {
  return `TOKENBUTLER_${flagName(key).replaceAll("-", "_").toUpperCase()}`;
}

/** What the command line and the environment say. */
export interface Resolved<F extends Flags> {
  readonly settings: Settings<F>;
  readonly positionals: readonly string[];
}

const MAX_SHOWN = 60;

/** A value as an error message shows it: quoted, and cut when long. */
export function shown(value: string): string {
  return JSON.stringify(value.length > MAX_SHOWN ? `${value.slice(0, MAX_SHOWN)}...` : value);
}

/** True when `--help` or `-h` is asked for; wins over every error. */
export function asksForHelp(flags: Flags, args: readonly string[]): boolean {
  return splitArguments(args, optionShapes(flags)).some((token) =>
    token.kind === "option" && (token.name === "help" || token.name === "h")
  );
}

/**
 * Reads settings from a command line and an environment.
 *
 * @throws {UsageError} If a flag is unknown, or a value is missing or against its rule.
 */
export function resolveFlags<F extends Flags>(
  flags: F,
  args: readonly string[],
  env: (name: string) => string | undefined,
): Resolved<F> {
  const written = collect(flags, args);
  const settings: Record<string, unknown> = {};
  for (const [key, flag] of Object.entries(flags)) {
    const texts = written.values.get(key);
    if (texts !== undefined) {
      settings[key] = readValue(flag, texts, `--${flagName(key)}`);
      continue;
    }
    const variable = env(envName(key));
    // An empty variable is how shells and service files write "not set".
    if (variable === undefined || variable === "") settings[key] = flag.fallback;
    else settings[key] = readVariable(flag, variable, envName(key));
  }
  return { settings: settings as Settings<F>, positionals: written.positionals };
}

/**
 * One setting of a command line that may be wrong elsewhere; its fallback where it is wrong itself.
 */
export function peekFlag(
  flags: Flags,
  key: string,
  args: readonly string[],
  env: (name: string) => string | undefined,
): unknown {
  const flag = flags[key]!;
  const names = [flagName(key), ...flag.aliases ?? []];
  const written = splitArguments(args, optionShapes(flags))
    .flatMap((token) => token.kind === "option" && names.includes(token.name) ? [token.value] : []);
  const result = flag.schema?.safeParse(written.at(-1) ?? env(envName(key)));
  return result?.success ? result.data : flag.fallback;
}

function optionShapes(flags: Flags): Record<string, OptionShape> {
  const shapes: Record<string, OptionShape> = { help: { type: "boolean", short: "h" } };
  for (const [key, flag] of Object.entries(flags)) {
    const type = flag.kind === "switch" ? "boolean" : "string";
    shapes[flagName(key)] = { type, ...(flag.short === undefined ? {} : { short: flag.short }) };
    for (const alias of flag.aliases ?? []) shapes[alias] = { type };
  }
  return shapes;
}

interface Written {
  /** Texts by key, in order; `"1"` and `"0"` for a switch. */
  readonly values: ReadonlyMap<string, readonly string[]>;
  readonly positionals: readonly string[];
}

function collect(flags: Flags, args: readonly string[]): Written {
  const keys = new Map<string, string>();
  for (const [key, flag] of Object.entries(flags)) {
    for (const name of [flagName(key), ...flag.aliases ?? []]) keys.set(name, key);
  }
  const values = new Map<string, string[]>();
  const positionals: string[] = [];
  for (const token of splitArguments(args, optionShapes(flags))) {
    if (token.kind === "positional") {
      positionals.push(token.value);
      continue;
    }
    const negated = token.name.startsWith("no-") ? keys.get(token.name.slice(3)) : undefined;
    const key = keys.get(token.name) ?? negated;
    const flag = key === undefined ? undefined : flags[key];
    if (key === undefined || flag === undefined) throw unknownFlag(token.written, keys.keys());
    const isNegated = !keys.has(token.name);
    if (flag.kind === "switch") {
      if (token.value !== undefined) {
        throw new UsageError(`${token.written} takes no value, but got ${shown(token.value)}`);
      }
      values.set(key, [isNegated ? "0" : "1"]);
      continue;
    }
    if (isNegated) {
      throw new UsageError(`unknown flag ${token.written}: --${flagName(key)} is no switch`);
    }
    if (token.value === undefined) {
      throw new UsageError(`${token.written} needs a value (${flag.placeholder})`);
    }
    // `--model --json` is a forgotten value far more often than a model of that name.
    if (!token.inline && token.value.startsWith("--") && keys.has(token.value.slice(2))) {
      throw new UsageError(
        `${token.written} needs a value, but the flag ${token.value} follows ` +
          `(if that is the value, write ${token.written}=${token.value})`,
      );
    }
    values.set(key, [...values.get(key) ?? [], token.value]);
  }
  return { values, positionals };
}

function unknownFlag(written: string, names: Iterable<string>): UsageError {
  const near = nearest(written.replace(/^-+/, ""), names);
  const hint = near === undefined ? "" : `; did you mean --${near}?`;
  return new UsageError(`unknown flag ${written}${hint}`);
}

function readValue(flag: Flag<unknown>, texts: readonly string[], source: string): unknown {
  if (flag.kind === "switch") return texts.at(-1) === "1";
  if (flag.kind === "list") return texts.map((text) => check(flag, text, source));
  return check(flag, texts.at(-1) ?? "", source);
}

function readVariable(flag: Flag<unknown>, variable: string, source: string): unknown {
  if (flag.kind === "switch") return check({ schema: booleanWord }, variable, source);
  // Several values do not fit into a variable as they are: a JSON array holds them.
  if (flag.kind === "list" && variable.trimStart().startsWith("[")) {
    return readValue(flag, stringArray(flag, variable, source), source);
  }
  return readValue(flag, [variable], source);
}

function stringArray(
  flag: Pick<Flag<unknown>, "secret">,
  variable: string,
  source: string,
): string[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(variable);
  } catch {
    parsed = undefined;
  }
  if (!Array.isArray(parsed) || !parsed.every((item) => typeof item === "string")) {
    throw new UsageError(
      `${source}: wanted one value or a JSON array of strings${got(flag, variable)}`,
    );
  }
  return parsed;
}

function check(
  flag: Pick<Flag<unknown>, "schema" | "secret">,
  text: string,
  source: string,
): unknown {
  const { schema } = flag;
  const result = schema?.safeParse(text);
  if (result === undefined) return text;
  if (result.success) return result.data;
  const rule = result.error.issues[0]?.message ?? "wanted something else";
  throw new UsageError(`${source}: ${rule}${got(flag, text)}`);
}

/** Who reads an error may not be who may know a secret: logs keep what a service says at its start. */
function got({ secret }: Pick<Flag<unknown>, "secret">, text: string): string {
  return secret === true ? "" : `, got ${shown(text)}`;
}
