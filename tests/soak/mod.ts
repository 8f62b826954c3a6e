/**
 * A long run of a server with many clients: `./run soak`. The server is a process of its own, so that
 * what is measured is its memory and not the clients'.
 *
 * @module
 */
import { defineCommand } from "../../src/cli/command.ts";
import { type Settings, valueFlag } from "../../src/cli/flags.ts";
import { type CliIo, EXIT } from "../../src/cli/io.ts";
import { jobFlags } from "../../src/cli/job_flags.ts";
import { timedBar } from "../../src/cli/progress.ts";
import { decimal, integer } from "../../src/cli/values.ts";
import { runTask } from "../_task.ts";
import { MANNER_NAMES } from "./_clients.ts";
import { startServer } from "./_server_process.ts";
import {
  growth,
  judgeMemory,
  MEMORY_MINUTES,
  MOST_GROWTH,
  problemsOf,
  soak,
  type SoakResult,
  tenths,
} from "./_soak.ts";

/** Runs of so many minutes meet every manner. */
const ALL_MANNERS_MINUTES = 2;

const group = "Soaking";
const flags = jobFlags("soak", {
  seed: valueFlag({
    group,
    help: "what the clients' doings are drawn from",
    placeholder: "N",
    schema: integer(0, Number.MAX_SAFE_INTEGER),
    fallback: null,
    fallbackText: "drawn, and printed",
  }),
  minutes: valueFlag({
    group,
    help:
      "how long; fractions too. Fails where an answer is missing or wrong, pages stay in use, or " +
      `memory grows by more than ${MOST_GROWTH * 100} % after the first quarter, which is judged ` +
      `from ${MEMORY_MINUTES} minutes on`,
    placeholder: "N",
    schema: decimal(0.1, 100_000),
    fallback: 20,
  }),
  clients: valueFlag({
    group,
    help: "clients side by side",
    placeholder: "N",
    schema: integer(1, 1000),
    fallback: 50,
  }),
});

const mebibytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;

function show({ outcomes, samples, before, after }: SoakResult): void {
  for (const [name, times] of [...outcomes].sort()) console.log(`${name} ${times}`);
  const most = (pick: (sample: SoakResult["samples"][number]) => number) =>
    samples.reduce((most, sample) => Math.max(most, pick(sample)), 0);
  console.log(
    `at the ${samples.length} looks, one a second, at most ${
      most(({ running }) => running)
    } ran, ` +
      `${most(({ waiting }) => waiting)} waited, ${most(({ parked }) => parked)} were parked; ` +
      `pages in use: ${before.pages} before, ${after.pages} after`,
  );
  for (
    const [name, pick] of [
      ["memory of the process", "residentBytes"],
      ["heap of its main isolate", "heapBytes"],
    ] as const
  ) {
    const values = samples.map((sample) => sample[pick]);
    const [first, last] = tenths(values);
    const grown = (growth(values) * 100).toFixed(1);
    console.log(
      `${name}: ${mebibytes(values[0]!)} at the start, ${mebibytes(first)} after the first ` +
        `quarter, ${mebibytes(last)} at the end: ${grown} %`,
    );
  }
}

/** Answers whether all was as it should be. */
async function run(
  { minutes, clients, ...asked }: Settings<typeof flags>,
  io: CliIo,
): Promise<boolean> {
  const seed = asked.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1;
  const seconds = minutes * 60;
  console.log(`seed ${seed}, ${clients} clients, ${minutes} minutes`);
  await using server = await startServer();
  const bar = timedBar(io, "Soaking", Math.max(1, Math.round(seconds)));
  let minute = 0;
  const result = await soak({
    target: server,
    seed,
    clients,
    seconds,
    onSample(sample) {
      bar.update(Math.min(Math.round(sample.second), Math.round(seconds)));
      if (sample.second < minute * 60) return;
      console.log(
        `minute ${minute++}: ${mebibytes(sample.residentBytes)}, heap ${
          mebibytes(sample.heapBytes)
        }`,
      );
    },
  }).finally(() => bar.stop());
  show(result);
  const code = await server.end();
  console.log(`the server wrote ${server.numLines} lines and ended with ${code}`);
  const problems = problemsOf(result);
  const memory = judgeMemory(result.samples.map(({ residentBytes }) => residentBytes), minutes);
  if (memory.verdict === "grew") problems.push(memory.text);
  else console.log(memory.text);
  const met = new Set([...result.outcomes.keys()].map((key) => key.replace(/:.*/, "")));
  const missed = MANNER_NAMES.filter((name) => !met.has(name));
  if (minutes >= ALL_MANNERS_MINUTES && missed.length > 0) {
    problems.push(`nobody ${missed.join(", ")}`);
  }
  if (server.logged.length > 0) problems.push(`the server logged: ${server.logged.join("; ")}`);
  if (code !== 0) problems.push(`the server ended with ${code}`);
  for (const problem of problems) console.log(`wrong: ${problem.slice(0, 2000)}`);
  return problems.length === 0;
}

/** The command line. */
export const command = defineCommand({
  name: "soak",
  summary: "lets clients stream, stop, leave, read slowly and send rubbish, and watches the server",
  usage: ["soak [flags]"],
  flags,
  async run(settings, io) {
    return await run(settings, io) ? EXIT.ok : EXIT.failure;
  },
});

if (import.meta.main) await runTask(command);
