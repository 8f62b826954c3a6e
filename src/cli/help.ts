/** `--help`, from the declarations. @module */
import type { AnyCommand } from "./command.ts";
import { envName, type Flag, flagName } from "./flags.ts";

/** Name of the program in messages. */
export const PROGRAM = "tokenbutler";

const WIDTH = 96;
const COLUMN = 30;

/** Breaks text at blanks so that each line fits, all but the first line indented. */
export function wrap(text: string, indent: number, width = WIDTH): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && indent + line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  lines.push(line);
  return lines.join(`\n${" ".repeat(indent)}`);
}

function fallbackText(flag: Flag<unknown>): string {
  if (flag.fallbackText !== undefined) return flag.fallbackText;
  if (flag.kind === "switch") return flag.fallback === true ? "on" : "off";
  if (flag.fallback === null || Array.isArray(flag.fallback)) return "none";
  return String(flag.fallback);
}

function flagEntry(key: string, flag: Flag<unknown>): string {
  const placeholder = flag.placeholder === undefined ? "" : ` ${flag.placeholder}`;
  const short = flag.short === undefined ? "" : `-${flag.short}, `;
  const head = `  ${short}--${flagName(key)}${placeholder}`;
  const aliases = flag.aliases === undefined
    ? ""
    : `; also ${flag.aliases.map((alias) => `--${alias}`).join(", ")}`;
  const repeated = flag.kind === "list" ? " (can be given several times)" : "";
  // Nobody types a switch that is on already.
  const isOffer = flag.kind === "switch" && flag.fallback !== false;
  const off = isOffer ? ` (--no-${flagName(key)}: off)` : "";
  const body = wrap(`${flag.help}${repeated}${off}${aliases}`, COLUMN);
  const source = wrap(`${envName(key, flag)}, default: ${fallbackText(flag)}`, COLUMN);
  const pad = " ".repeat(COLUMN);
  const gap = head.length + 2 > COLUMN ? `\n${pad}` : " ".repeat(COLUMN - head.length);
  return `${head}${gap}${body}\n${pad}${source}`;
}

/**
 * The help text of one command: every flag with its environment variable and its default.
 *
 * @param typed What one types before the command's name.
 */
export function commandHelp(command: AnyCommand, typed = PROGRAM): string {
  const parts = [`${PROGRAM} ${command.name}: ${command.summary}`];
  parts.push(
    command.usage.map((line, index) => `${index === 0 ? "Usage:" : "      "} ${typed} ${line}`)
      .join("\n"),
  );
  const groups = new Map<string, string[]>();
  for (const [key, flag] of Object.entries(command.flags)) {
    groups.set(flag.group, [...groups.get(flag.group) ?? [], flagEntry(key, flag)]);
  }
  for (const [group, entries] of groups) parts.push(`${group}\n${entries.join("\n")}`);
  if (command.choices !== undefined) parts.push(`NAME is one of\n${nameList(command.choices)}`);
  for (const note of command.notes ?? []) parts.push(wrap(note, 0));
  if (groups.size === 0) return `${parts.join("\n\n")}\n`;
  parts.push(wrap(
    "A flag beats its environment variable. A variable of a flag that can be given several times " +
      "holds one value, or a JSON array of strings. Switches: 1, true, on, yes or 0, false, off, " +
      "no, on the command line --NAME, --no-NAME or --NAME=false.",
    0,
  ));
  return `${parts.join("\n\n")}\n`;
}

/** Names with a line each. */
function nameList(entries: readonly { readonly name: string; readonly summary: string }[]): string {
  return entries.map(({ name, summary }) => `  ${name.padEnd(10)} ${wrap(summary, 13)}`).join("\n");
}

/** The help text of the program; `typed` is what one types before the name of a command. */
export function programHelp(
  commands: readonly { name: string; summary: string }[],
  typed = PROGRAM,
): string {
  return [
    `${PROGRAM}: serves a language model on a GPU through WebGPU, with the OpenAI HTTP API`,
    `Usage: ${typed} COMMAND [FLAGS]`,
    `Commands\n${nameList(commands)}`,
    wrap(
      `${typed} COMMAND --help lists the flags of a command, their environment variables and ` +
        "defaults. --version prints the versions of program and Deno, and the adapter.",
      0,
    ),
    wrap(
      "What tests the program is no command of it but a task of the project, as fuzz and soak are: " +
        "./run --help lists those.",
      0,
    ),
    wrap(
      "Exit codes: 0 is success, 2 that what was asked for cannot work as asked, 1 any other " +
        "failure. A signal ends a command with 130 or 143, serve and chat with 0.",
      0,
    ),
    wrap(
      "TOKENBUTLER_DEBUG=1 prints the stack of an error. TOKENBUTLER_CWD names the folder that " +
        "relative file names are taken from; the tasks of deno.json set it.",
      0,
    ),
  ].join("\n\n") + "\n";
}
