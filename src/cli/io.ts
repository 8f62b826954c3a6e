/**
 * Everything the command line needs from its surroundings, in one interface, so that tests can
 * run a command without a process.
 *
 * @module
 */

/** A key press or a request to end. */
export type Interrupt = "SIGINT" | "SIGTERM";

/** Surroundings of a command. */
export interface CliIo {
  /** Results. With `--json` exactly one line. */
  stdout(text: string): void;
  /** Messages for people. */
  stderr(text: string): void;
  readonly stderrIsTerminal: boolean;
  readonly stdinIsTerminal: boolean;
  env(name: string): string | undefined;
  /** Lines of standard input without their line ends; ends at end of file. */
  stdinLines(): AsyncIterableIterator<string>;
  /** Calls `handler` at each interrupt until the answer is disposed of. */
  onInterrupt(handler: (signal: Interrupt) => void): Disposable;
  /** Ends the process now, whatever runs. */
  exit(code: number): never;
}

/** Exit codes. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130, terminated: 143 } as const;

/** Exit code of a command that a signal ended. */
export function interruptCode(signal: Interrupt): number {
  return signal === "SIGINT" ? EXIT.interrupted : EXIT.terminated;
}

/** Whether the stacks of errors are wanted (`TOKENBUTLER_DEBUG=1`). */
export function isDebug(io: CliIo): boolean {
  const value = io.env("TOKENBUTLER_DEBUG");
  return value !== undefined && value !== "" && value !== "0";
}

/**
 * One key press can arrive twice: the terminal sends it to the whole group, and `deno task`, which
 * is in it, forwards its own copy. Copies are this near to each other.
 */
const SAME_PRESS_MS = 100;

const encoder = new TextEncoder();

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  let bytes = encoder.encode(text);
  while (bytes.length > 0) bytes = bytes.subarray(stream.writeSync(bytes));
}

/** The surroundings of a real process. */
export function processIo(): CliIo {
  return {
    stdout: (text) => writeAll(Deno.stdout, text),
    stderr: (text) => writeAll(Deno.stderr, text),
    stderrIsTerminal: Deno.stderr.isTerminal(),
    stdinIsTerminal: Deno.stdin.isTerminal(),
    env: (name) => Deno.env.get(name),
    stdinLines,
    onInterrupt,
    exit: (code) => Deno.exit(code),
  };
}

async function* stdinLines(): AsyncIterableIterator<string> {
  let rest = "";
  for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield line.replace(/\r$/, "");
  }
  if (rest !== "") yield rest;
}

function onInterrupt(handler: (signal: Interrupt) => void): Disposable {
  let last = -Infinity;
  const interrupted = () => {
    const now = performance.now();
    const copy = now - last < SAME_PRESS_MS;
    last = now;
    if (!copy) handler("SIGINT");
  };
  const terminated = () => handler("SIGTERM");
  Deno.addSignalListener("SIGINT", interrupted);
  // Windows has no SIGTERM to listen to.
  const hasTerm = Deno.build.os !== "windows";
  if (hasTerm) Deno.addSignalListener("SIGTERM", terminated);
  return {
    [Symbol.dispose]() {
      Deno.removeSignalListener("SIGINT", interrupted);
      if (hasTerm) Deno.removeSignalListener("SIGTERM", terminated);
    },
  };
}
