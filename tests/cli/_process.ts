/** The program as a process of its own. @module */
import { assert } from "std-testing";

/** The project. */
export const ROOT = decodeURIComponent(new URL("../../", import.meta.url).pathname).replace(
  /\/$/,
  "",
);
/** A tiny model. */
export const MODEL = `${ROOT}/tests/data/tiny/llama31-bf16`;
const DENO_FOLDER = Deno.execPath().replace(/\/[^/]*$/, "");

/** What the tests themselves were started with says nothing about the program. */
const ENVIRONMENT = Object.fromEntries(
  Object.entries(Deno.env.toObject()).filter(([name]) => !/^(INIT_CWD$|TOKENBUTLER_)/.test(name)),
);

/** How the program is started. */
export interface StartOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** `./run`, unless it is to be Deno itself. */
  readonly program?: string;
  readonly stdin?: "piped";
}

/** Starts the program. */
export function start(args: readonly string[], options: StartOptions = {}): Deno.ChildProcess {
  const PATH = `${DENO_FOLDER}:${Deno.env.get("PATH") ?? ""}`;
  return new Deno.Command(options.program ?? `${ROOT}/run`, {
    args: [...args],
    cwd: options.cwd ?? ROOT,
    clearEnv: true,
    env: { ...ENVIRONMENT, PATH, NO_COLOR: "1", ...options.env },
    stdin: options.stdin ?? "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Runs it to its end. */
export async function run(args: readonly string[], options: StartOptions = {}) {
  const { code, stdout, stderr } = await start(args, options).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Reads lines of a stream until one matches; the rest is read and dropped. */
export async function waitFor(
  stream: ReadableStream<Uint8Array>,
  pattern: RegExp,
): Promise<string> {
  let text = "";
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  while (true) {
    const match = text.match(pattern);
    if (match !== null) {
      (async () => {
        while (!(await reader.read()).done);
      })();
      return match[1] ?? match[0];
    }
    const { value, done } = await reader.read();
    assert.ok(!done, `ended without ${pattern}: ${text}`);
    text += value;
  }
}
