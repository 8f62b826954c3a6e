/**
 * The long form of the fuzz tests: `./run fuzz [--seed N] [--count N] [--first N] [--only NAME,NAME]`.
 * Spoils files and requests by the thousand and stops at the first that is not refused as it should.
 *
 * @module
 */
import { processIo } from "../../src/cli/io.ts";
import { timedBar } from "../../src/cli/progress.ts";
import { type FuzzCase, runCases } from "./_cases.ts";
import { FILE_TARGETS, fileCases } from "./_files.ts";
import { lineCases } from "./_lines.ts";
import { requestCases, sendGood } from "./_requests.ts";
import { openFuzzServer } from "./_server.ts";

const SERVER_KINDS = [["requests", requestCases], ["lines", lineCases]] as const;
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
  const names = [...targets, ...SERVER_KINDS.map(([name]) => ({ name }))].map(({ name }) => name);
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
  const kinds = SERVER_KINDS.filter(([name]) => only?.includes(name) ?? true);
  if (kinds.length === 0) return;
  await using server = await openFuzzServer({ ends: true });
  await sendGood(server);
  for (const [name, cases] of kinds) await run(name, cases(server, seed, first, count));
  if (server.logged.length > 0) throw new Error(`the server logged: ${server.logged.join("; ")}`);
}

if (import.meta.main) {
  try {
    await main();
    Deno.exit();
  } catch (error) {
    console.error(error instanceof Error && error.message === USAGE ? USAGE : error);
    Deno.exit(1);
  }
}
