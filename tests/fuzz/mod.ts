/**
 * The long form of the fuzz tests: `./run fuzz`. Spoils files and requests by the thousand and stops
 * at the first that is not refused as it should.
 *
 * @module
 */
import { defineCommand } from "../../src/cli/command.ts";
import { type Settings, valueFlag } from "../../src/cli/flags.ts";
import { type CliIo, EXIT } from "../../src/cli/io.ts";
import { jobFlags } from "../../src/cli/job_flags.ts";
import { timedBar } from "../../src/cli/progress.ts";
import { integer, wordList } from "../../src/cli/values.ts";
import { runTask } from "../_task.ts";
import { type FuzzCase, runCases } from "./_cases.ts";
import { FILE_TARGETS, fileCases } from "./_files.ts";
import { lineCases } from "./_lines.ts";
import { requestCases, sendGood } from "./_requests.ts";
import { openFuzzServer } from "./_server.ts";

const SERVER_KINDS = [["requests", requestCases], ["lines", lineCases]] as const;
const TARGETS = FILE_TARGETS.map((make) => make());
const NAMES = [...TARGETS.map(({ name }) => name), ...SERVER_KINDS.map(([name]) => name)];

const group = "Fuzzing";
const flags = jobFlags("fuzz", {
  seed: valueFlag({
    group,
    help: "what the spoiled inputs are drawn from",
    placeholder: "N",
    schema: integer(0, Number.MAX_SAFE_INTEGER),
    fallback: null,
    fallbackText: "drawn, and printed",
  }),
  count: valueFlag({
    group,
    help: "inputs of each kind",
    placeholder: "N",
    schema: integer(1, 10_000_000),
    fallback: 10_000,
  }),
  first: valueFlag({
    group,
    help: "the first of them, to make one again",
    placeholder: "N",
    schema: integer(0, 10_000_000),
    fallback: 0,
  }),
  only: valueFlag({
    group,
    help: `kinds: ${NAMES.join(", ")}`,
    placeholder: "NAME,NAME",
    schema: wordList(NAMES),
    fallback: null,
    fallbackText: "all",
  }),
});

async function fuzz(
  { count, first, only, ...asked }: Settings<typeof flags>,
  io: CliIo,
): Promise<void> {
  const seed = asked.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1;
  console.log(`seed ${seed}, ${count} of each from ${first} on`);
  const processBytes = () => Deno.memoryUsage().rss;
  const run = async (name: string, cases: Iterable<FuzzCase>) => {
    const bar = timedBar(io, name, count);
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
  for (const target of TARGETS.filter(({ name }) => only?.includes(name) ?? true)) {
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

/** The command line. */
export const command = defineCommand({
  name: "fuzz",
  summary: "spoils files and requests, and stops at the first that is not refused as it should",
  usage: ["fuzz [flags]"],
  notes: ["The seed is printed, and what makes a single input again where one fails."],
  flags,
  async run(settings, io) {
    await fuzz(settings, io);
    return EXIT.ok;
  },
});

if (import.meta.main) await runTask(command);
