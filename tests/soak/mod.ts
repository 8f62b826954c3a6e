/**
 * A long run of a server with many clients: `./run soak [--seed N] [--minutes N] [--clients N]`.
 *
 * @module
 */
import { processIo } from "../../src/cli/io.ts";
import { timedBar } from "../../src/cli/progress.ts";
import { openTextSide } from "../../src/cli/text_side.ts";
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE } from "../../src/engine/types.ts";
import { openServer } from "../server/_server.ts";
import { growth, soak } from "./_soak.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;
const USAGE = "usage: ./run soak [--seed N] [--minutes N] [--clients N]";
/** Memory may have grown by so much after the warm-up. */
const MOST_GROWTH = 0.05;

function optionsOf(args: readonly string[]) {
  const named: Record<string, number> = {
    seed: crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1,
    minutes: 20,
    clients: 50,
  };
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i]!.replace(/^--/, "");
    const value = Number(args[i + 1]);
    if (!(name in named) || !(value >= 0)) throw new Error(USAGE);
    named[name] = value;
  }
  return named as { seed: number; minutes: number; clients: number };
}

async function main(): Promise<boolean> {
  const { seed, minutes, clients } = optionsOf(Deno.args);
  const seconds = minutes * 60;
  console.log(`seed ${seed}, ${clients} clients, ${minutes} minutes`);
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
  const bar = timedBar(processIo(), "Soaking", Math.max(1, Math.round(seconds)));
  const result = await soak({
    url: server.url,
    engine,
    seed,
    clients,
    seconds,
    onProgress: (done) => bar.update(Math.min(Math.round(done), Math.round(seconds))),
  }).finally(() => bar.stop());
  for (const [name, times] of [...result.outcomes].sort()) console.log(`${name} ${times}`);
  const { before, after, memory } = result;
  const grown = growth(memory);
  const mebibytes = (bytes: number) => Math.round(bytes / 2 ** 20);
  console.log(
    `pages in use: ${before.pagesInUse} before, ${after.pagesInUse} after; ` +
      `sequences after: ${after.runningSequences} running, ${after.waitingSequences} waiting`,
  );
  console.log(
    `memory: ${mebibytes(memory[0]![1])} MiB at the start, ${
      mebibytes(memory.at(-1)![1])
    } MiB at ` +
      `the end, ${(grown * 100).toFixed(1)} % more than after the first quarter`,
  );
  const problems = [
    after.pagesInUse === before.pagesInUse || "pages were not given back",
    after.runningSequences + after.waitingSequences === 0 || "sequences are left",
    grown <= MOST_GROWTH || `memory grew by more than ${MOST_GROWTH * 100} %`,
    server.logged.length === 0 || `the server logged: ${server.logged.join("; ")}`,
  ].filter((problem) => problem !== true);
  for (const problem of problems) console.log(`wrong: ${problem}`);
  return problems.length === 0;
}

if (import.meta.main) {
  try {
    if (!await main()) Deno.exit(1);
  } catch (error) {
    console.error(error instanceof Error && error.message === USAGE ? USAGE : error);
    Deno.exit(1);
  }
}
