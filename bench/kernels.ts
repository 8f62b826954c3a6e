/**
 * Where does the time of a step go? The dispatches of a real decode step and of a real prefill
 * chunk are written down and sent again, those of one part of the model at a time.
 *
 * Run: `./run bench kernels`
 *
 * @module
 */
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags } from "../src/cli/model_flags.ts";
import type { Settings } from "../src/cli/flags.ts";
import type { DecodeRow } from "../src/engine/runner_types.ts";
import { Readback } from "../src/gpu/readback.ts";
import { calibrate } from "./_calibration.ts";
import type { Moment } from "./_clock.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import { recordDispatches, type RecordedDispatch, replay } from "./_recorder.ts";
import { Report } from "./_report.ts";
import { type Role, ROLES, rolesOf } from "./_roles.ts";
import { summarize } from "./_stats.ts";
import { fill, openSubject, PLAIN, type Subject, textIds } from "./_subject.ts";
import { alternate, submission, type Timed } from "./_timing.ts";
import { stepWork, type Work } from "./_work.ts";

const flags = {
  ...engineFlags,
  contexts: integersFlag("contexts of the decode steps", [512, 2048]),
  sequences: integersFlag("sequences of a decode step", [1], 256),
  prefills: integersFlag("tokens of the prefill chunks", [256], 512),
  starts: integersFlag("tokens of the prompt before a prefill chunk", [0, 1792], 2 ** 20, 0),
  rounds: countFlag("rounds over all parts", 9),
};

type Parts = ReadonlyMap<Role | "whole step", readonly RecordedDispatch[]>;

interface Step {
  readonly name: string;
  readonly parts: Parts;
  readonly work: ReadonlyMap<Role, Work>;
}

function split(dispatches: readonly RecordedDispatch[]): Parts {
  const roles = rolesOf(dispatches);
  const parts = new Map<Role | "whole step", RecordedDispatch[]>();
  for (const role of ROLES) {
    const own = dispatches.filter((_, index) => roles[index] === role);
    if (own.length > 0) parts.set(role, own);
  }
  return parts.set("whole step", [...dispatches]);
}

async function decodeStep(subject: Subject, context: number, sequences: number): Promise<Step> {
  const { runner, kv, device, info } = subject.parts;
  const rows: DecodeRow[] = [];
  for (let slot = 0; slot < sequences; slot++) {
    const token = await fill(subject, slot, textIds(subject, 100 * slot, context));
    kv.reserve(slot, context + 1);
    rows.push({ slot, position: context, token, sample: PLAIN });
  }
  const dispatches = await recordDispatches(device, () => runner.decode(rows));
  const keys = rows.map(() => context + 1);
  const { config, shapes } = subject;
  const work = stepWork(config, shapes, info.kv.type, keys, sequences, context * sequences);
  const name = `decode at ${context}${sequences === 1 ? "" : ` x${sequences}`}`;
  return { name, parts: split(dispatches), work };
}

async function prefillStep(subject: Subject, start: number, count: number): Promise<Step> {
  const { runner, kv, device, info } = subject.parts;
  if (start > 0) await fill(subject, 0, textIds(subject, 0, start));
  else kv.release(0);
  kv.reserve(0, start + count);
  const tokens = textIds(subject, start, count);
  const chunk = { slot: 0, start, tokens, sample: PLAIN, scoring: null };
  const dispatches = await recordDispatches(device, () => runner.prefill(chunk));
  const keys = tokens.map((_, index) => start + index + 1);
  const work = stepWork(subject.config, subject.shapes, info.kv.type, keys, 1, start + count);
  return { name: `prefill of ${count} at ${start}`, parts: split(dispatches), work };
}

async function measureStep(
  step: Step,
  subject: Subject,
  readback: Readback,
  rounds: number,
  report: Report,
): Promise<void> {
  const { device } = subject.parts;
  const plans: { name: Role | "whole step"; dispatches: readonly RecordedDispatch[] }[] = [];
  const timed: Timed[] = [];
  for (const [name, dispatches] of step.parts) {
    plans.push({ name, dispatches });
    timed.push(await submission(device, readback, (pass) => replay(pass, dispatches)));
  }
  const loops: Moment[] = [];
  const times = await alternate(timed, rounds, () => loops.push(calibrate(1)));
  const whole = times.at(-1)!.cpuMsMin;
  for (const [index, { name, dispatches }] of plans.entries()) {
    const { min, median, p95 } = summarize(times[index]!.wallMs);
    const cpu = times[index]!.cpuMsMin;
    const work = name === "whole step" ? undefined : step.work.get(name);
    report.add({
      step: step.name,
      part: name,
      dispatches: dispatches.length,
      msMin: min,
      msMedian: median,
      msP95: p95,
      cpuMsMin: cpu,
      sharePercent: 100 * cpu / whole,
      gflops: work === undefined ? null : work.flops / min / 1e6,
      gbPerSecond: work === undefined ? null : work.bytes / min / 1e6,
      variant: name === "whole step" ? null : dispatches[0]!.label,
      jsLoopMs: Math.min(...loops.map(({ cpuMs }) => cpuMs)),
    });
  }
}

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { contexts, sequences, prefills, starts, rounds } = settings;
  const longest = Math.max(...contexts, Math.max(...starts) + Math.max(...prefills)) + 1;
  using subject = await openSubject(settings, io, Math.max(...sequences), longest);
  using readback = await Readback.create(subject.parts.device, 16);
  const report = new Report(io, "kernels", subject.common);
  for (const context of contexts) {
    for (const count of sequences) {
      const step = await decodeStep(subject, context, count);
      await measureStep(step, subject, readback, rounds, report);
    }
  }
  for (const count of prefills) {
    for (const start of starts) {
      const step = await prefillStep(subject, start, count);
      await measureStep(step, subject, readback, rounds, report);
    }
  }
  report.finish([
    "A part's time is that of its dispatches alone, sent again in one submission; caches are as " +
    "warm as that leaves them. Rates are of the least time.",
  ]);
}

export const { command, run } = defineBenchmark({
  name: "kernels",
  summary: "where the time of a step goes, by part of the model",
  flags,
  measure,
});
