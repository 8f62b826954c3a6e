/** What a command is, and the table's view of it. @module */
import type { Logger } from "../observe/logger.ts";
import type { Flags, Settings } from "./flags.ts";
import type { CliIo } from "./io.ts";

/** One command: its flags and what it does with them. */
export interface Command<F extends Flags = Flags> {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** Forms of the command line, without the program's name. */
  readonly usage: readonly string[];
  /** Paragraphs under the flags in `--help`. */
  readonly notes?: readonly string[];
  readonly flags: F;
  /** Takes all arguments as they are, flags too, unless `--help` comes first. */
  readonly ownsArguments?: boolean;
  /**
   * Where an error goes that ends it, the arguments being wrong included.
   *
   * @returns Null: to standard error as text.
   */
  readonly errorLog?: (args: readonly string[], io: CliIo) => Logger | null;
  /**
   * @param rest All arguments when `ownsArguments`, else none.
   * @returns The exit code.
   */
  run(settings: Settings<F>, io: CliIo, rest: readonly string[]): Promise<number>;
}

/** A command whatever its flags; the table calls it with settings read from those very flags. */
export type AnyCommand = Command<Flags>;

/** Keeps the type of the flags together with the code that uses them. */
export function defineCommand<const F extends Flags>(command: Command<F>): AnyCommand {
  return command;
}

/** A failure that a person can act on. Exit code 1; printed without a stack. */
export class CommandError extends Error {
  override readonly name = "CommandError";
}
