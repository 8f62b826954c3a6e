/**
 * The command line: which command is meant, its settings, its exit code, and how errors look.
 *
 * @module
 */
import { type AnyCommand, CommandError } from "./command.ts";
import { asksForHelp, resolveFlags, UsageError } from "./flags.ts";
import { commandHelp, PROGRAM, programHelp } from "./help.ts";
import { type CliIo, EXIT, isDebug } from "./io.ts";
import { exitCodeOf } from "./exit_codes.ts";
import type { Logger } from "../observe/logger.ts";
import { nearest } from "../suggest.ts";
import { logFatal } from "./log_io.ts";
import { versionText } from "./version.ts";

/** A command that is loaded when it is used: `tokenize` need not wait for the engine's modules. */
interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<{ readonly command: AnyCommand }>;
}

/** All commands, in the order of the help text. */
export const COMMANDS: readonly Entry[] = [
  {
    name: "serve",
    summary: "serves a model through the OpenAI HTTP API",
    load: () => import("./commands/serve.ts"),
  },
  {
    name: "generate",
    summary: "writes text after a prompt",
    load: () => import("./commands/generate.ts"),
  },
  {
    name: "chat",
    summary: "holds a conversation in the terminal",
    load: () => import("./commands/chat.ts"),
  },
  {
    name: "score",
    summary: "measures how well the model predicts a text",
    load: () => import("./commands/score.ts"),
  },
  {
    name: "calibrate",
    summary: "makes what the loki policy needs from a text",
    load: () => import("./commands/calibrate.ts"),
  },
  {
    name: "train",
    summary: "trains the predictor of the tokenbutler policy",
    load: () => import("./commands/train.ts"),
  },
  {
    name: "eval",
    summary: "measures what selection costs in quality",
    load: () => import("./commands/eval.ts"),
  },
  {
    name: "tokenize",
    summary: "turns text into token ids, or ids into text",
    load: () => import("./commands/tokenize.ts"),
  },
  {
    name: "doctor",
    summary: "checks the adapter, the memory, the weights file and the kernels",
    load: () => import("./commands/doctor.ts"),
  },
  {
    name: "bench",
    summary: "measures speed",
    load: () => import("./commands/bench.ts"),
  },
];

/** Names that `./run` and `deno task` know beside the commands; for the hint on a mistyped name. */
const TASKS = ["test", "test:long", "fuzz", "soak", "check", "fmt", "lint", "ok", "compile"];

/** Runs a command line and answers the exit code. Never throws. */
export async function runCli(args: readonly string[], io: CliIo): Promise<number> {
  let name = "";
  let log: Logger | null = null;
  try {
    const [first, ...rest] = args;
    if (first === undefined || first === "--help" || first === "-h" || first === "help") {
      io.stdout(programHelp(COMMANDS, startedAs(io)));
      return EXIT.ok;
    }
    if (first === "--version" || first === "-V") {
      io.stdout(await versionText(startedAs(io)));
      return EXIT.ok;
    }
    const entry = COMMANDS.find((candidate) => candidate.name === first);
    if (entry === undefined) throw unknownCommand(first);
    name = entry.name;
    const { command } = await entry.load();
    log = command.errorLog?.(rest, io) ?? null;
    return await runCommand(command, rest, io);
  } catch (error) {
    return reportError(error, name, io, log);
  }
}

/** Runs one command with the arguments that follow its name. */
export async function runCommand(
  command: AnyCommand,
  args: readonly string[],
  io: CliIo,
): Promise<number> {
  const asked = command.ownsArguments === true ? args.slice(0, 1) : args;
  if (asksForHelp(command.flags, asked)) {
    io.stdout(commandHelp(command, startedAs(io)));
    return EXIT.ok;
  }
  try {
    if (command.ownsArguments === true) return await command.run({}, io, args);
    const { settings, positionals } = resolveFlags(command.flags, args, (name) => io.env(name));
    const [extra] = positionals;
    if (extra !== undefined) throw new UsageError(`unexpected argument ${JSON.stringify(extra)}`);
    return await command.run(settings, io, []);
  } catch (error) {
    // The innermost command is the one that was meant: `bench http` and not `bench`.
    if (error instanceof UsageError || error instanceof CommandError) {
      error.command ??= command.name;
    }
    throw error;
  }
}

/** Variable in which a script says what was typed to start it. */
export const STARTED_AS = "TOKENBUTLER_STARTED_AS";

/** What to type before the name of a command. */
function startedAs(io: CliIo): string {
  return io.env(STARTED_AS) || PROGRAM;
}

function unknownCommand(first: string): UsageError {
  if (first.startsWith("-")) {
    return new UsageError(`the command comes first, and ${JSON.stringify(first)} is none`);
  }
  if (TASKS.includes(first)) {
    return new UsageError(`${first} is a task: ./run ${first}, or deno task ${first}`);
  }
  const near = nearest(first, [...COMMANDS.map((command) => command.name), ...TASKS]);
  const hint = near === undefined ? "" : `; did you mean ${near}?`;
  return new UsageError(`unknown command ${JSON.stringify(first)}${hint}`);
}

/**
 * Prints an error as a person needs it and answers the exit code that goes with it.
 *
 * @param log Where it goes instead; null: nowhere.
 */
export function reportError(
  error: unknown,
  command: string,
  io: CliIo,
  log: Logger | null = null,
): number {
  // Whoever reads our output has enough (`| head`): nothing is wrong, and nobody is listening.
  if (error instanceof Deno.errors.BrokenPipe) return EXIT.ok;
  const message = error instanceof Error ? error.message : String(error);
  const isExpected = error instanceof UsageError || error instanceof CommandError;
  const words = (isExpected ? error.command : undefined) ?? command;
  const hint = hintOf(error, words, io);
  if (log !== null) logFatal(log, { message, hint, error }, io);
  else printError(`${PROGRAM}${words === "" ? "" : ` ${words}`}: ${message}`, hint, error, io);
  return exitCodeOf(error);
}

function hintOf(error: unknown, command: string, io: CliIo): string | null {
  if (error instanceof UsageError) {
    return `Try: ${startedAs(io)} ${command === "" ? "" : `${command} `}--help`;
  }
  const isStackShown = isDebug(io) && error instanceof Error;
  if (isStackShown || error instanceof CommandError || isNamedError(error)) return null;
  return "This looks like a defect. TOKENBUTLER_DEBUG=1 prints where it happened.";
}

function printError(line: string, hint: string | null, error: unknown, io: CliIo): void {
  io.stderr(`${line}\n`);
  if (hint !== null) io.stderr(`${hint}\n`);
  if (!isDebug(io)) return;
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    io.stderr(`${cause.stack ?? cause.message}\n`);
  }
}

/** Errors of the program's own kinds and of the system: their messages stand for themselves. */
function isNamedError(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const unnamed = ["Error", "TypeError", "RangeError", "ReferenceError", "SyntaxError"];
  return !unnamed.includes(error.name);
}
