/**
 * How long does a decode step of one sequence take, by length of context, and how much of it is the
 * host's own work?
 *
 * Run: `./run bench decode`
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
import { stepWork, totalWork } from "./_work.ts";

const flags = {
  ...engineFlags,
  contexts: integersFlag("lengths of context", [512, 2048]),
  steps: countFlag("steps in a row of one context", 8),
  rounds: countFlag("rounds over all contexts", 12),
};

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { contexts, steps, rounds } = settings;
  using subject = await openSubject(settings, io, contexts.length, Math.max(...contexts) + steps);
  const { info } = subject.parts;
  const report = new Report(io, "decode", {
    ...subject.common,
    kernel: info.variants["matmul"]?.split(" ")[0] ?? "",
    readback: info.readback,
  });
  const timed = [];
  for (const [slot, context] of contexts.entries()) {
    const token = await fill(subject, slot, textIds(subject, 0, context));
    timed.push(decodeTimed(subject, [{ slot, position: context, token }], steps));
  }
  const loops: Moment[] = [];
  await alternate(timed, 1);
  for (const { stepMs, hostMs } of timed) stepMs.length = hostMs.length = 0;
  const times = await alternate(timed, rounds, () => loops.push(calibrate(1)));
  for (const [index, context] of contexts.entries()) {
    const { stepMs, hostMs } = timed[index]!;
    const { min, median, p95 } = summarize(stepMs);
    const host = summarize(hostMs);
    const { bytes, flops } = totalWork(
      stepWork(subject.config, subject.shapes, info.kv.type, [context + 1], 1, context),
    );
    report.add({
      context,
      msMin: min,
      ms: median,
      msP95: p95,
      cpuMsMin: times[index]!.cpuMsMin,
      tokensPerSecond: 1000 / median,
      gbPerSecond: bytes / median / 1e6,
      gflops: flops / median / 1e6,
      hostMsMin: host.min,
      hostMs: host.median,
      hostMsP95: host.p95,
    });
  }
  report.finish([
    "hostMs: tables, encoding and submitting in JavaScript, within ms.",
    loopNote(loops.reduce((a, b) => (a.wallMs < b.wallMs ? a : b))),
  ]);
}

export const { command, run } = defineBenchmark({
  name: "decode",
  summary: "time of a decode step by context, and the host's part of it",
  flags,
  measure,
});
