/**
 * How long does an engine take to start: model opened, device opened, weights uploaded, kernels
 * compiled, first token?
 *
 * Run: `./run bench start`
 *
 * @module
 */
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags, engineOptions } from "../src/cli/model_flags.ts";
import { createLocalEngine } from "../src/engine/create.ts";
import { GREEDY, type LoadProgress } from "../src/engine/types.ts";
import { now, since } from "./_clock.ts";
import { countFlag, defineBenchmark } from "./_define.ts";
import { Report } from "./_report.ts";
import { summarize } from "./_stats.ts";

const flags = { ...engineFlags, rounds: countFlag("starts", 5) };

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const phases = new Map<LoadProgress["phase"] | "first token", number[]>();
  const cpuMs: number[] = [];
  let device = "";
  for (let round = 0; round < settings.rounds; round++) {
    const began = now();
    const reached = new Map<LoadProgress["phase"] | "first token", number>();
    const engine = await createLocalEngine(engineOptions(settings, 4), ({ phase }) => {
      if (!reached.has(phase)) reached.set(phase, since(began).wallMs);
    });
    cpuMs.push(since(began).cpuMs);
    const stream = engine.generate({
      id: "first",
      promptIds: [1],
      maxTokens: 1,
      minTokens: 0,
      stopTokenIds: [],
      bannedTokenIds: [],
      sampling: GREEDY,
      logprobs: null,
      promptLogprobs: null,
    });
    for await (const event of stream) {
      if (event.type === "token") reached.set("first token", since(began).wallMs);
    }
    device = engine.info.adapter.description;
    for (const [phase, ms] of reached) phases.set(phase, [...phases.get(phase) ?? [], ms]);
    await engine.close();
  }
  const report = new Report(io, "start", { device });
  for (const [phase, times] of phases) {
    const { min, median, p95 } = summarize(times);
    report.add({ reached: phase, msMin: min, ms: median, msP95: p95 });
  }
  report.finish([`processor time until ready, at least: ${Math.round(Math.min(...cpuMs))} ms`]);
}

export const { command, run } = defineBenchmark({
  name: "start",
  summary: "how long an engine takes to start",
  notes: [
    "Times count from the call, not from the start of the process; the first start of a process " +
    "also loads the driver.",
  ],
  flags,
  measure,
});
