/**
 * How far is a decode step from what the adapter could do? The adapter's best rates are measured in
 * the same rounds as the steps, and give the time that the step's weights, keys and values need.
 *
 * Run: `./run bench limit`
 *
 * @module
 */
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags } from "../src/cli/model_flags.ts";
import { openDevice } from "../src/gpu/device.ts";
import { Kernels } from "../src/gpu/kernels.ts";
import { Readback } from "../src/gpu/readback.ts";
import { decodeTimed } from "./_decode.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import { measureRates, oneRowShapes, type Rates, ratesNotes } from "./_rates.ts";
import { Report } from "./_report.ts";
import { fill, openSubject, type Subject, textIds } from "./_subject.ts";
import { alternate } from "./_timing.ts";
import { stepWork } from "./_work.ts";

const flags = {
  ...engineFlags,
  contexts: integersFlag("lengths of context", [512, 2048]),
  steps: countFlag("steps in a row of one context", 4),
  rounds: countFlag("rounds over all variants and contexts", 15),
};

/** Milliseconds that a step needs at these rates. */
function neededMs({ config, shapes, parts }: Subject, rates: Rates, context: number): number {
  const fastest = Math.max(...rates.matvec.values());
  let ms = 0;
  // By storage type: a role may have several.
  for (const shape of shapes) {
    const work = stepWork(config, [shape], parts.info.kv.type, [context + 1], 1, context);
    const { flops, bytes } = work.get(shape.role)!;
    const rate = rates.matvec.get(shape.type) ?? fastest;
    ms += Math.max(flops / rate, bytes / rates.stream) / 1e6;
  }
  const attention = stepWork(config, [], parts.info.kv.type, [context + 1], 1, context)
    .get("attention")!;
  return ms + Math.max(attention.flops / fastest, attention.bytes / rates.stream) / 1e6;
}

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { contexts, steps, rounds } = settings;
  using subject = await openSubject(settings, io, contexts.length, Math.max(...contexts) + steps);
  const decodes = [];
  for (const [slot, context] of contexts.entries()) {
    const token = await fill(subject, slot, textIds(subject, 0, context));
    decodes.push(decodeTimed(subject, [{ slot, position: context, token }], steps));
  }
  await alternate(decodes, 1);
  for (const { stepMs } of decodes) stepMs.length = 0;

  const { device, caps } = await openDevice();
  using readback = await Readback.create(device, 16);
  const shapes = oneRowShapes(subject.shapes);
  const rates = await measureRates(new Kernels(device, caps), readback, rounds, shapes, decodes);
  const report = new Report(io, "limit", subject.common);
  for (const [index, context] of contexts.entries()) {
    const ms = Math.min(...decodes[index]!.stepMs);
    const needed = neededMs(subject, rates.wall, context);
    const cpuMs = rates.cpu === null
      ? null
      : rates.others[index]!.cpuMsMin / navigator.hardwareConcurrency;
    const neededCpu = rates.cpu === null ? null : neededMs(subject, rates.cpu, context);
    report.add({
      context,
      msMin: ms,
      msNeeded: needed,
      ratio: ms / needed,
      msByCpuTime: cpuMs,
      msNeededByCpuTime: neededCpu,
      ratioByCpuTime: cpuMs === null || neededCpu === null ? null : cpuMs / neededCpu,
    });
  }
  report.finish([
    "Needed: each part at the adapter's best rate, whichever of bytes and operations takes longer.",
    ...ratesNotes(rates),
  ]);
}

export const { command, run } = defineBenchmark({
  name: "limit",
  summary: "how far a decode step is from what the adapter could do",
  flags,
  measure,
});
