/**
 * The long form of the fuzz tests: `./run fuzz [--seed N] [--count N] [--first N] [--only NAME,NAME]`.
 * Spoils files and requests by the thousand and stops at the first that is not refused as it should.
 *
 * @module
 */
import { openTextSide } from "../../src/cli/text_side.ts";
import { processIo } from "../../src/cli/io.ts";
import { timedBar } from "../../src/cli/progress.ts";
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE } from "../../src/engine/types.ts";
import { openServer } from "../server/_server.ts";
import { type FuzzCase, runCases } from "./_cases.ts";
import { FILE_TARGETS, fileCases } from "./_files.ts";
import { requestCases } from "./_requests.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;
const REQUESTS = "requests";
const USAGE = "usage: ./run fuzz [--seed N] [--count N] [--first N] [--only NAME,NAME]";

interface Options {
  readonly seed: number;
  readonly count: number;
  readonly first: number;
  readonly only: readonly string[] | null;
}

function optionsOf(args: readonly string[]): Options {
  const named = new Map<string, string>();
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i]!.match(/^--(seed|count|first|only)$/)?.[1];
    const value = args[i + 1];
    if (name === undefined || value === undefined) throw new Error(USAGE);
    named.set(name, value);
  }
  const number = (name: string, otherwise: number) => {
    const value = Number(named.get(name) ?? otherwise);
    if (!Number.isSafeInteger(value) || value < 0) throw new Error(USAGE);
    return value;
  };
  return {
    seed: number("seed", crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1),
    count: number("count", 10_000),
    first: number("first", 0),
    only: named.get("only")?.split(",") ?? null,
  };
}

async function main(): Promise<void> {
  const options = optionsOf(Deno.args);
  const { seed, count, first, only } = options;
  const targets = FILE_TARGETS.map((make) => make());
  const names = [...targets.map(({ name }) => name), REQUESTS];
  const unknown = only?.find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`there is no ${unknown} among ${names.join(", ")}`);
  console.log(`seed ${seed}, ${count} of each from ${first} on`);
  const processBytes = () => Deno.memoryUsage().rss;
  const run = async (name: string, cases: Iterable<FuzzCase>) => {
    const bar = timedBar(processIo(), name, count);
    function* shown(): Generator<FuzzCase> {
      let done = 0;
      for (const one of cases) {
        bar.update(done++);
        yield one;
      }
    }
    const again = (index: number) =>
      `./run fuzz --only ${name} --seed ${seed} --first ${first + index} --count 1`;
    const start = performance.now();
    const { taken, refused, slowestMs, largestBytes } = await runCases(shown(), again, processBytes)
      .finally(() => bar.stop());
    const seconds = Math.round((performance.now() - start) / 1000);
    console.log(
      `${name}: ${refused} refused, ${taken} taken, ${seconds} s; the slowest took ` +
        `${Math.round(slowestMs)} ms, the largest ${(largestBytes / 2 ** 20).toFixed(1)} MiB`,
    );
  };
  for (const target of targets.filter(({ name }) => only?.includes(name) ?? true)) {
    const folder = await Deno.makeTempDir();
    try {
      await run(target.name, fileCases(target, folder, seed, first, count));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }
  if (only !== null && !only.includes(REQUESTS)) return;
  const engine = await startEngine({
    modelPath: MODEL,
    contextLength: 512,
    maxSequences: 4,
    kvType: "f32",
    prefillChunk: 32,
    kernelOverrides: {},
    ...DEFAULT_CACHE,
  });
  const side = await openTextSide(MODEL, "chat");
  await using server = await openServer({ engine, ...side });
  await run(REQUESTS, requestCases(server.url, seed, first, count));
  if (server.logged.length > 0) throw new Error(`the server logged: ${server.logged.join("; ")}`);
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(error instanceof Error && error.message === USAGE ? USAGE : error);
    Deno.exit(1);
  }
}
