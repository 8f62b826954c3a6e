/**
 * How fast are prompts processed, by length?
 *
 * Run: `./run bench prefill`
 *
 * @module
 */
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags } from "../src/cli/model_flags.ts";
import { calibrate } from "./_calibration.ts";
import type { Moment } from "./_clock.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import { loopNote } from "./_rates.ts";
import { Report } from "./_report.ts";
import { summarize } from "./_stats.ts";
import { fill, openSubject, textIds } from "./_subject.ts";
import { alternate } from "./_timing.ts";
import { stepWork, totalWork } from "./_work.ts";

const flags = {
  ...engineFlags,
  lengths: integersFlag("lengths of prompts", [512, 2048]),
  rounds: countFlag("rounds over all lengths", 3),
};

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { lengths, rounds } = settings;
  using subject = await openSubject(settings, io, 1, Math.max(...lengths));
  const { info } = subject.parts;
  const report = new Report(io, "prefill", {
    ...subject.common,
    kernel: (info.variants["matmul_lanes"] ?? info.variants["matmul"] ?? "").split(" ").at(-1)!,
    chunk: info.prefillChunk,
  });
  // Other text each time: nothing may be found again.
  let offset = 0;
  const timed = lengths.map((length) => ({
    repeats: 1,
    run: async () => void await fill(subject, 0, textIds(subject, offset++, length)),
  }));
  const loops: Moment[] = [];
  const times = await alternate(timed, rounds, () => loops.push(calibrate(1)));
  for (const [index, length] of lengths.entries()) {
    const { wallMs, cpuMsMin } = times[index]!;
    const { min, median, p95 } = summarize(wallMs);
    const keys = Array.from({ length }, (_, position) => position + 1);
    const { flops } = totalWork(
      stepWork(subject.config, subject.shapes, info.kv.type, keys, 1, length),
    );
    report.add({
      tokens: length,
      msMin: min,
      ms: median,
      msP95: p95,
      cpuMsMin,
      tokensPerSecond: 1000 * length / median,
      gflops: flops / median / 1e6,
    });
  }
  report.finish([loopNote(loops.reduce((a, b) => (a.wallMs < b.wallMs ? a : b)))]);
}

export const { command, run } = defineBenchmark({
  name: "prefill",
  summary: "how fast prompts are processed, by length",
  flags,
  measure,
});
