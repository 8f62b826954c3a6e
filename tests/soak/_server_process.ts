/** `serve` as a process of its own, small enough that all its bounds are met. @module */
import { MODEL, start, waitFor } from "../cli/_process.ts";
import type { Target } from "./_target.ts";

const KEYS = ["soak-one", "soak-two"];

/** Room for some two sequences of four, for a third of what is asked, for few conversations. */
const FLAGS = [
  ...["--model", MODEL, "--context", "512", "--max-seqs", "4", "--kv-type", "f32"],
  ...["--prefill-chunk", "32", "--kv-device", "1700KiB", "--kv-host", "8MiB"],
  ...["--max-queue", "24", "--max-n", "4", "--stall-timeout", "3", "--header-timeout", "2"],
  ...["--body-timeout", "2", "--log-format", "json", "--port", "0"],
  ...KEYS.flatMap((key) => ["--api-key", key]),
];

/** The process. */
export interface ServerProcess extends Target, AsyncDisposable {
  readonly pid: number;
  /** Lines of the log at level `error`. */
  readonly logged: readonly string[];
  /** Number of lines of the log. */
  readonly numLines: number;
  /** Asks it to end. @returns Its exit code. */
  end(): Promise<number>;
}

/** Starts it as a user does, and waits until it answers. */
export async function startServer(): Promise<ServerProcess> {
  const folder = await Deno.makeTempDir();
  const child = start([
    ...["serve", ...FLAGS, "--slot-dir", `${folder}/slots`],
    // Full soon: a folder that grows has an index that grows.
    ...["--prefix-dir", `${folder}/prefixes`, "--prefix-dir-size", "16MiB"],
  ]);
  const logged: string[] = [];
  let numLines = 0;
  const reading = (async () => {
    let rest = "";
    for await (const part of child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop()!;
      numLines += lines.length;
      logged.push(...lines.filter((line) => /"level":"error"/.test(line)));
    }
  })();
  const url = await waitFor(child.stdout, /^listening on (\S+)\n/m);
  const end = async () => {
    child.kill("SIGTERM");
    const { code } = await child.status;
    await reading;
    return code;
  };
  let ending: Promise<number> | undefined;
  const process: ServerProcess = {
    url,
    keys: KEYS,
    pid: child.pid,
    logged,
    get numLines() {
      return numLines;
    },
    end: () => ending ??= end(),
    async [Symbol.asyncDispose]() {
      await process.end();
      await Deno.remove(folder, { recursive: true });
    },
  };
  return process;
}
