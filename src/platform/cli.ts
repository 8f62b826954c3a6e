/**
 * What stands in for `@std/cli` (bare name `std-cli` in deno.json): argument splitting by
 * `node:util`, progress bars by cli-progress. The rest of the program imports the bare name and
 * sees only the two small interfaces below, so that a switch touches this file alone.
 *
 * @module
 */

// @ts-types="./cli_progress.d.ts"
import cliProgress from "cli-progress";
import process from "node:process";
import { parseArgs } from "node:util";

/** How an option is written: with a value, or alone. */
export interface OptionShape {
  readonly type: "string" | "boolean";
  /** One letter, without its dash. */
  readonly short?: string;
}

/** One piece of a command line. */
export type ArgumentToken =
  | {
    readonly kind: "option";
    /** Name without dashes; `no-` is kept. */
    readonly name: string;
    /** As it was written, with dashes. */
    readonly written: string;
    /** Absent when nothing follows. */
    readonly value: string | undefined;
    /** The value was written in the same argument (`--name=value`). */
    readonly inline: boolean;
  }
  | { readonly kind: "positional"; readonly value: string };

/**
 * Splits a command line into options and positionals, in order. Judges nothing: unknown options
 * come back as tokens like the known ones. After `--` everything is positional.
 */
export function splitArguments(
  args: readonly string[],
  options: Readonly<Record<string, OptionShape>>,
): ArgumentToken[] {
  const { tokens } = parseArgs({
    args: [...args],
    options: { ...options },
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const split: ArgumentToken[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") split.push({ kind: "positional", value: token.value });
    if (token.kind !== "option") continue;
    split.push({
      kind: "option",
      name: token.name,
      written: token.rawName,
      value: token.value,
      inline: token.inlineValue === true,
    });
  }
  return split;
}

/** A bar on standard error. */
export interface ProgressBar {
  /** @param done Units of the `total` that were named at the start. */
  update(done: number): void;
  /** Takes the bar off the screen. */
  stop(): void;
}

/**
 * Draws a bar on standard error at once; ask first whether that is a terminal.
 *
 * @param note What is said behind the bar when so many units are done.
 */
export function drawProgressBar(
  label: string,
  total: number,
  note: (done: number) => string = () => "",
): ProgressBar {
  const bar = new cliProgress.SingleBar({
    format: `${label} [{bar}] {percentage}%{note}`,
    stream: process.stderr,
    clearOnComplete: true,
    // A key press may end the process while a bar is there: the cursor has to be left as it was.
    hideCursor: false,
    barsize: 30,
    // Redraws happen on update only: work that blocks the thread would starve a timer anyway.
    fps: 10,
  }, cliProgress.Presets.shades_classic);
  bar.start(total, 0, { note: "" });
  return { update: (done) => bar.update(done, { note: note(done) }), stop: () => bar.stop() };
}
