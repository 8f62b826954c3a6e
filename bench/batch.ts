/**
 * How many tokens a second do several sequences make together, compared with one? Prompts are in
 * the cache before the clock starts.
 *
 * Run: `./run bench batch`
 *
 * @module
 */
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags } from "../src/cli/model_flags.ts";
import { calibrate } from "./_calibration.ts";
import type { Moment } from "./_clock.ts";
import { decodeTimed } from "./_decode.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import { loopNote } from "./_rates.ts";
import { Report } from "./_report.ts";
import { summarize } from "./_stats.ts";
import { fill, openSubject, textIds } from "./_subject.ts";
import { alternate } from "./_timing.ts";

const flags = {
  ...engineFlags,
  sizes: integersFlag("sequences that decode together", [1, 2, 4, 8], 256),
  prompt: countFlag("tokens of the longest prompt; the others are shorter by up to a half", 128),
  steps: countFlag("steps in a row", 8),
  rounds: countFlag("rounds over all sizes", 8),
};

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { sizes, prompt, steps, rounds } = settings;
  const most = Math.max(...sizes);
  using subject = await openSubject(settings, io, most, prompt + steps);
  const report = new Report(io, "batch", subject.common);
  const rows: Parameters<typeof decodeTimed>[1][number][] = [];
  for (let slot = 0; slot < most; slot++) {
    const length = Math.max(1, prompt - Math.floor(prompt / 2 * slot / most));
    const token = await fill(subject, slot, textIds(subject, 200 * slot, length));
    rows.push({ slot, position: length, token });
  }
  const timed = sizes.map((size) => decodeTimed(subject, rows.slice(0, size), steps));
  await alternate(timed, 1);
  for (const { stepMs } of timed) stepMs.length = 0;
  const loops: Moment[] = [];
  const times = await alternate(timed, rounds, () => loops.push(calibrate(1)));
  const perToken = sizes.map((size, index) => ({
    wallMs: summarize(timed[index]!.stepMs).median / size,
    cpuMs: times[index]!.cpuMsMin / size,
  }));
  const one = perToken[sizes.indexOf(Math.min(...sizes))]!;
  for (const [index, size] of sizes.entries()) {
    const { min, median, p95 } = summarize(timed[index]!.stepMs);
    const { wallMs, cpuMs } = perToken[index]!;
    report.add({
      sequences: size,
      msMin: min,
      ms: median,
      msP95: p95,
      tokensPerSecond: 1000 / wallMs,
      gain: one.wallMs / wallMs,
      cpuMsPerToken: cpuMs,
      gainByCpuTime: one.cpuMs / cpuMs,
    });
  }
  report.finish([loopNote(loops.reduce((a, b) => (a.wallMs < b.wallMs ? a : b)))]);
}

export const { command, run } = defineBenchmark({
  name: "batch",
  summary: "tokens a second of several sequences together, compared with one",
  flags,
  measure,
});
