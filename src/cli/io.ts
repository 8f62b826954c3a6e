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
  /** All arguments of the program, the command's name first. */
  readonly args: readonly string[];
  /** Ends the process now, whatever runs. */
  exit(code: number): never;
}

/** Exit codes; `exit_codes.ts` says which error has which. */
export const EXIT = { ok: 0, failure: 1, usage: 2 } as const;

/** Whether the stacks of errors are wanted (`TOKENBUTLER_DEBUG=1`). */
export function isDebug(io: CliIo): boolean {
  const value = io.env("TOKENBUTLER_DEBUG");
  return value !== undefined && value !== "" && value !== "0";
}

/**
 * One signal can arrive twice: the terminal (a key press) or whoever looks after the process sends it
 * to the whole group, and `deno task` or a supervisor, which is in it, forwards its own copy. Copies
 * are this near to each other.
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
    stderr(text) {
      try {
        writeAll(Deno.stderr, text);
      } catch {
        // A full disk, or a reader who is gone: no reason to end what is told of.
      }
    },
    stderrIsTerminal: Deno.stderr.isTerminal(),
    stdinIsTerminal: Deno.stdin.isTerminal(),
    env: (name) => Deno.env.get(name),
    stdinLines,
    onInterrupt,
    args: Deno.args,
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

const handlers = new Set<(signal: Interrupt) => void>();
let listening = false;

/**
 * Stays for the life of the process: without a listener, the second copy of the key press that made
 * a command end would end the process in the middle of its clean-up, with another exit code.
 */
function listen(): void {
  listening = true;
  const last = { SIGINT: -Infinity, SIGTERM: -Infinity };
  const take = (signal: Interrupt) => {
    const now = performance.now();
    const copy = now - last[signal] < SAME_PRESS_MS;
    last[signal] = now;
    if (copy) return;
    if (handlers.size === 0) Deno.exit(signal === "SIGINT" ? 130 : 143);
    for (const handler of [...handlers]) handler(signal);
  };
  Deno.addSignalListener("SIGINT", () => take("SIGINT"));
  // Windows has no SIGTERM to listen to.
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", () => take("SIGTERM"));
}

function onInterrupt(handler: (signal: Interrupt) => void): Disposable {
  if (!listening) listen();
  handlers.add(handler);
  return { [Symbol.dispose]: () => void handlers.delete(handler) };
}
