/** How long a training would take, from a chunk of the prompt and a few steps. @module */
import { parameterCount, producersOf } from "../../../butler/predictor/shape.ts";
import type { EngineParts } from "../../../engine/create.ts";
import { selectPlan } from "../../../gpu/plan.ts";
import type { CaptureWindow } from "../../../train/capture.ts";
import { CaptureLayout } from "../../../train/capture_file.ts";
import { still } from "../../../butler/predictor/turns.ts";
import { DeviceTrainer } from "../../../train/device/trainer.ts";
import { placesOf, splitValues } from "../../../train/device/values.ts";
import { measure } from "../../../train/measure.ts";
import { measureSettings, QUICK_WINDOWS, RATE_PARTS } from "../../../train/settings.ts";
import type { Samples } from "../../../train/samples.ts";
import type { ObjectiveWindow, ProducerSizes } from "../../../train/objective.ts";
import { startOf } from "../../../train/start.ts";
import { sizesOf } from "../../../train/train.ts";
import { openEngine } from "./captures.ts";
import { durationText } from "../../progress.ts";
import type { TrainJob } from "./job.ts";

const MIB = 2 ** 20;

/** `--dry-run`: how long the work would take and how large it would be. */
export async function dryRun(job: TrainJob): Promise<void> {
  const { flags, io, shape, samples } = job;
  const { rows, tokens, epochs } = job.settings;
  const layout = (windows: readonly CaptureWindow[]) =>
    new CaptureLayout({
      model: shape.model,
      stride: shape.stride,
      tokens: windows[0]!.ids.length,
      rows: windows[0]!.positions.length,
    }).fileBytes(windows.length);
  const kinds = kindsOf(samples);
  const disk = kinds.reduce((sum, windows) => sum + layout(windows), 0);
  const parts = await openEngine(job);
  const captureSeconds = await timeCapture(parts, samples);
  parts.dispose();
  const places = producersOf(shape);
  const sizes = sizesOf(shape, places[0]!, { rows, tokens });
  const device = DeviceTrainer.ownBytes(sizes) +
    DeviceTrainer.windowBytes(sizes) * samples.train.length;
  const step = epochs === 0 ? 0 : await timeStep(job, sizes);
  // A predictor to go on from is in the place of the closed form.
  const start = flags.from === null ? timeStart(job, sizes, samples.train.length) : 0;
  const each = start + step * epochs * samples.train.length + timeMeasures(job);
  const trainSeconds = each * places.length;
  const plan = {
    parameters: parameterCount(shape),
    windows: samples.train.length,
    held_out: kindsOf(samples).slice(1).flat().length,
    disk_bytes: disk,
    device_bytes: Math.min(flags.memory, device),
    capture_seconds: Math.round(captureSeconds),
    train_seconds: Math.round(trainSeconds),
  };
  if (flags.json) io.stdout(`${JSON.stringify(plan)}\n`);
  else {
    io.stdout(
      `${plan.parameters} parameters; ${plan.windows} windows of ${tokens} tokens to train on, ` +
        `${plan.held_out} to measure on\n` +
        `running the model: about ${durationText(captureSeconds)}, ${
          Math.ceil(disk / MIB)
        } MiB on disk\n` +
        `training: about ${durationText(trainSeconds)}, ${
          Math.ceil(plan.device_bytes / MIB)
        } MiB on the ` +
        "device\n",
    );
  }
}

/** The windows that have a file of their own. */
function kindsOf({ train, heldOut, table }: Samples): (readonly CaptureWindow[])[] {
  return [...new Set([train, heldOut, table])];
}

/** Seconds that the model takes for all windows, from a chunk. */
async function timeCapture({ runner, kv, info }: EngineParts, samples: Samples): Promise<number> {
  const all = kindsOf(samples).flat();
  const tokens = all[0]!.ids.slice(0, info.prefillChunk);
  kv.reserve(0, tokens.length);
  const began = performance.now();
  await runner.prefill({ slot: 0, start: 0, tokens, sample: null, scoring: null });
  const each = (performance.now() - began) / 1000 / tokens.length;
  kv.release(0);
  return each * all.reduce((sum, { ids }) => sum + ids.length, 0);
}

/** A window of random values; rows are at its end. */
function randomWindow(
  { hiddenSize, served, numHeads, numKvHeads, headDim, rows, tokens }: ProducerSizes,
): ObjectiveWindow {
  const random = (length: number) => Float32Array.from({ length }, () => Math.random() - 0.5);
  return {
    positions: Uint32Array.from({ length: rows }, (_, i) => tokens - rows + i),
    hidden: random(rows * hiddenSize),
    queries: random(served * numHeads * rows * headDim),
    keys: random(served * numKvHeads * tokens * headDim),
  };
}

/** Seconds that a producer's closed form takes over so many windows, from one and from three. */
function timeStart(
  { rope, settings }: TrainJob,
  sizes: ProducerSizes,
  windows: number,
): number {
  const window = randomWindow(sizes);
  const timed = (count: number) => {
    const began = performance.now();
    startOf(sizes, rope, settings.sinks, () => Array.from({ length: count }, () => window));
    return (performance.now() - began) / 1000;
  };
  const one = timed(1);
  return one + Math.max(0, (timed(3) - one) / 2) * (windows - 1);
}

/** Seconds that a producer takes on windows to measure on, from one of each length. */
function timeMeasures({ shape, settings, samples: { heldOut, table } }: TrainJob): number {
  const place = producersOf(shape)[0]!;
  const timed = (windows: readonly CaptureWindow[]) => {
    const { ids, positions } = windows[0]!;
    const sizes = sizesOf(shape, place, { rows: positions.length, tokens: ids.length });
    const window = { ...randomWindow(sizes), positions };
    const values = splitValues(sizes, new Float32Array(placesOf(sizes).count).fill(0.01));
    const turning = still(sizes.served, sizes.numKvHeads);
    const began = performance.now();
    measure(sizes, values, turning, [window], measureSettings(settings));
    return (performance.now() - began) / 1000;
  };
  const quick = Math.min(QUICK_WINDOWS, heldOut.length) * (settings.epochs + 1);
  const short = timed(heldOut) * (quick + heldOut.length);
  return table === heldOut ? short : short + timed(table) * table.length;
}

/** Seconds of a training step, on random values. */
async function timeStep(
  { kernels, flags, settings }: TrainJob,
  sizes: ProducerSizes,
): Promise<number> {
  const plan = selectPlan(kernels.caps, Object.fromEntries(flags.kernel));
  using trainer = await DeviceTrainer.create({
    kernels,
    lanes: plan.rowLanes,
    subgroups: plan.subgroups,
    sizes,
    // What is turned by nothing takes as long.
    turning: still(sizes.served, sizes.numKvHeads),
    objective: settings,
    clip: settings.clip,
    decay: settings.decay,
    rateParts: RATE_PARTS,
  });
  using window = trainer.openWindow(randomWindow(sizes));
  trainer.step(window, 1e-3);
  await trainer.loss();
  const began = performance.now();
  const steps = 3;
  for (let i = 0; i < steps; i++) {
    trainer.step(window, 1e-3);
    await trainer.loss();
  }
  return (performance.now() - began) / 1000 / steps;
}
