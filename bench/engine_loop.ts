/**
 * What does the engine's own loop cost: scheduling, events and the way through the worker, with a
 * runner that costs nothing?
 *
 * Run: `deno run --allow-read bench/engine_loop.ts`
 *
 * One line of JSON for each case: microseconds of wall time for a decode step, and for a token.
 *
 * @module
 */
import { DEFAULT_CACHE, type Engine, type EngineOptions, GREEDY } from "../src/engine/types.ts";
import { WorkerEngine } from "../src/engine/worker_client.ts";
import { idleEngine, idleWorkerUrl } from "./_idle_engine.ts";

const NUM_TOKENS = 4000;
const REPEATS = 7;

let numRequests = 0;

async function runOnce(engine: Engine, numSequences: number): Promise<number> {
  const read = async () => {
    let count = 0;
    const stream = engine.generate({
      id: `${numRequests++}`,
      promptIds: [1, 2, 3],
      maxTokens: NUM_TOKENS,
      minTokens: 0,
      stopTokenIds: [],
      bannedTokenIds: [],
      sampling: GREEDY,
      logprobs: null,
      promptLogprobs: null,
    });
    for await (const event of stream) if (event.type === "token") count++;
    if (count !== NUM_TOKENS) throw new Error(`${count} tokens came`);
  };
  const begin = performance.now();
  await Promise.all(Array.from({ length: numSequences }, read));
  return (performance.now() - begin) * 1000 / NUM_TOKENS;
}

async function measure(where: string, engine: Engine, numSequences: number): Promise<void> {
  await runOnce(engine, numSequences);
  const times: number[] = [];
  for (let i = 0; i < REPEATS; i++) times.push(await runOnce(engine, numSequences));
  times.sort((a, b) => a - b);
  const median = times[REPEATS >> 1]!;
  console.log(JSON.stringify({
    where,
    numSequences,
    usPerStep: Math.round(median * 10) / 10,
    usPerStepWorst: Math.round(times[REPEATS - 1]! * 10) / 10,
    usPerToken: Math.round(median / numSequences * 10) / 10,
  }));
}

if (import.meta.main) {
  for (const numSequences of [1, 8]) {
    const local = idleEngine(numSequences);
    await measure("in process", local, numSequences);
    await local.close();
    const options: EngineOptions = {
      modelPath: "",
      contextLength: null,
      maxSequences: numSequences,
      kvType: "f16",
      prefillChunk: null,
      kernelOverrides: {},
      ...DEFAULT_CACHE,
    };
    const worker = new Worker(idleWorkerUrl(), { type: "module" });
    const remote = await WorkerEngine.start(worker, options);
    await measure("worker", remote, numSequences);
    await remote.close();
  }
}
