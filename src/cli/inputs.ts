/** Prompts and token ids as users name them: text, files, JSON arrays. @module */
import { Buffer } from "node:buffer";
import { z } from "zod";
import type { Tokenizer } from "../tokenizer/types.ts";
import { MisfitError } from "./command.ts";
import { shown, UsageError } from "./flags.ts";

const idArray = z.array(z.int().min(0)).min(1);

/**
 * Reads a text file that a flag names; `-` is standard input, to its end.
 *
 * @throws {MisfitError} If it cannot be read or is not UTF-8.
 */
export function readTextFile(path: string, flag: string): string {
  const bytes = readFile(path, flag);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new MisfitError(`${flag}: ${path} is not a UTF-8 text file`, { cause: error });
  }
}

function readFile(path: string, flag: string): Uint8Array {
  try {
    return path === "-" ? readStandardInput() : Deno.readFileSync(path);
  } catch (error) {
    const cannot = `${flag}: cannot read ${shown(path)}`;
    throw new MisfitError(`${cannot}: ${whyNotRead(error)}`, { cause: error });
  }
}

function readStandardInput(): Uint8Array {
  const parts: Uint8Array[] = [];
  for (;;) {
    const part = new Uint8Array(1 << 16);
    const count = Deno.stdin.readSync(part);
    if (count === null) return new Uint8Array(Buffer.concat(parts));
    parts.push(part.subarray(0, count));
  }
}

function whyNotRead(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "there is no such file";
  if (error instanceof Deno.errors.IsADirectory) return "it is a folder";
  // Deno's own advice would be to allow everything.
  if (error instanceof Deno.errors.NotCapable) {
    return "the program may read ordinary files only, and no devices: - is standard input";
  }
  return error instanceof Error ? error.message : String(error);
}

/**
 * Token ids from what `--ids` was given: a JSON array, or the name of a file that holds one.
 *
 * @throws {UsageError} If it is not an array of whole numbers from 0.
 * @throws {MisfitError} If the file cannot be read.
 */
export function readIds(value: string): number[] {
  const inline = value.trimStart().startsWith("[");
  const source = inline ? "--ids" : `--ids ${value}`;
  // `1,2` is more often meant as ids than as the name of a file.
  if (!inline && /^\s*\d+([\s,]+\d+)*[\s,]*$/.test(value)) {
    throw new UsageError(`--ids: wanted a JSON array like [1,2] or a file, got ${shown(value)}`);
  }
  const json = inline ? value : readTextFile(value, "--ids");
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (error) {
    throw new UsageError(`${source}: wanted a JSON array of token ids, got ${shown(json)}`, {
      cause: error,
    });
  }
  const ids = idArray.safeParse(parsed);
  if (!ids.success) {
    const issue = ids.error.issues[0];
    const index = typeof issue?.path[0] === "number" ? issue.path[0] : undefined;
    const bad = index === undefined ? json : JSON.stringify((parsed as unknown[])[index]);
    const where = index === undefined ? "" : ` at index ${index}`;
    throw new UsageError(
      `${source}: wanted a JSON array of one or more token ids, whole numbers from 0, ` +
        `got ${shown(bad)}${where}`,
    );
  }
  return ids.data;
}

/** @throws {MisfitError} If an id is outside the vocabulary. */
export function checkVocabulary(ids: readonly number[], vocabSize: number): void {
  const index = ids.findIndex((id) => id >= vocabSize);
  if (index < 0) return;
  throw new MisfitError(
    `token id ${ids[index]} at index ${index} is outside the vocabulary: ids of this model go ` +
      `from 0 to ${vocabSize - 1}`,
  );
}

/**
 * Names the one flag that is set.
 *
 * @throws {UsageError} If none is set, or more than one.
 */
export function exactlyOne<Name extends string>(
  values: Readonly<Record<Name, unknown>>,
): Name {
  const names = Object.keys(values) as Name[];
  const given = names.filter((name) => values[name] !== null);
  const [only] = given;
  if (only === undefined) throw new UsageError(`one of ${names.join(", ")} is needed`);
  if (given.length > 1) {
    throw new UsageError(`${given.join(" and ")} exclude each other: give one of them`);
  }
  return only;
}

/** @throws {MisfitError} If the model has no tokenizer. */
export function needTokenizer(tokenizer: Tokenizer | undefined): Tokenizer {
  if (tokenizer !== undefined) return tokenizer;
  throw new MisfitError("this model has no tokenizer: give token ids with --ids");
}

/**
 * Token ids of a text, with BOS where the model file asks for it.
 *
 * @throws {MisfitError} If the text gives no token.
 */
export function encodeText(tokenizer: Tokenizer, text: string, parseSpecial: boolean): number[] {
  const ids = tokenizer.encode(text, { parseSpecial, addBos: true });
  if (ids.length === 0) throw new MisfitError("the text is empty: it gives no token");
  return ids;
}

/** @throws {MisfitError} If a prompt leaves no room for one more token. */
export function checkFits(promptTokens: number, contextLength: number): void {
  if (promptTokens < contextLength) return;
  throw new MisfitError(
    `the prompt has ${promptTokens} tokens, but the context holds ${contextLength} and one has to ` +
      "stay free: shorten the prompt, or ask for more with --context",
  );
}
