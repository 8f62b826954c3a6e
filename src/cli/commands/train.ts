/** `train`: a predictor for the tokenbutler policy, from text that runs through the model. @module */
import { checkWritable } from "../../butler/calibration/write.ts";
import { defaultPredictorPath } from "../../butler/predictor/file.ts";
import {
  MAX_PARAMETER_SHARE,
  parameterCount,
  type PredictorShape,
  producersOf,
} from "../../butler/predictor/shape.ts";
import { writePredictor } from "../../butler/predictor/write.ts";
import { createEngineParts, type EngineParts, openKernels } from "../../engine/create.ts";
import { DEFAULT_CACHE } from "../../engine/types.ts";
import type { Kernels } from "../../gpu/kernels.ts";
import { selectPlan } from "../../gpu/plan.ts";
import { openModel } from "../../model/open.ts";
import { PREDICTOR_NAME } from "../../model/side_files.ts";
import { budgetsOf } from "../../train/budgets.ts";
import { lineCharts } from "../../report/chart.ts";
import { capture, type CaptureWindow } from "../../train/capture.ts";
import { CaptureFile, CaptureLayout } from "../../train/capture_file.ts";
import { DeviceTrainer } from "../../train/device_trainer.ts";
import { LOSSES } from "../../train/objective.ts";
import { type Samples, takeSamples } from "../../train/samples.ts";
import { MEASURED_BUDGET, TRAIN_DEFAULTS, type TrainSettings } from "../../train/settings.ts";
import { sizesOf, train, type TrainResult } from "../../train/train.ts";
import { CommandError, defineCommand } from "../command.ts";
import { listFlag, type Settings, switchFlag, UsageError, valueFlag } from "../flags.ts";
import { readTextFile } from "../inputs.ts";
import { type CliIo, EXIT } from "../io.ts";
import { engineFlags, modelPath } from "../model_flags.ts";
import { timedBar } from "../progress.ts";
import { openTextSide } from "../text_side.ts";
import { writePicture } from "../picture.ts";
import { decimal, integer, oneOf, sizeBytes, text } from "../values.ts";
import { VERSION } from "../version.ts";

/** Tokens of a prefill chunk: fixed, so that the same text gives the same bytes. */
const CHUNK = 256;
const MIB = 2 ** 20;

const { model, kernel } = engineFlags;

/** A flag for a whole number of the settings. */
function count(help: string, min: number, max: number, fallback: number) {
  return valueFlag({
    group: "Training",
    help,
    placeholder: "N",
    schema: integer(min, max),
    fallback,
  });
}

const flags = {
  text: listFlag({
    group: "Training",
    help:
      "a UTF-8 file with text like that which the model will read; of its last tenth a half is " +
      "measured on and a half is left for eval",
    placeholder: "FILE",
    short: "f",
    schema: text,
  }),
  out: valueFlag({
    group: "Training",
    help: "the file to write",
    placeholder: "F",
    short: "o",
    schema: text,
    fallback: null,
    fallbackText: `${PREDICTOR_NAME} beside the model, where it is found by itself`,
  }),
  cache: valueFlag({
    group: "Training",
    help: "folder for what the model computed and for checkpoints: the same command goes on from " +
      "there after it was ended",
    placeholder: "DIR",
    schema: text,
    fallback: null,
    fallbackText: "the name of the file to write, with .training",
  }),
  windows: count(
    "windows of text to train on, in equal parts from each file",
    1,
    1e6,
    TRAIN_DEFAULTS.windows,
  ),
  tokens: count("tokens of such a window", 64, 2 ** 17, TRAIN_DEFAULTS.tokens),
  rows: count("rows of a window whose attention is learnt", 8, 4096, TRAIN_DEFAULTS.rows),
  epochs: count("how often each window is seen", 0, 1e4, TRAIN_DEFAULTS.epochs),
  heldOut: count("windows to measure on", 1, 1e4, TRAIN_DEFAULTS.heldOut),
  heldOutTokens: count(
    "tokens of such a window; rows of its second half are measured",
    64,
    2 ** 17,
    TRAIN_DEFAULTS.heldOutTokens,
  ),
  loss: valueFlag({
    group: "Training",
    help: "full: attention over all rows; candidates: over the rows between sinks and window; " +
      "group: that, and what a KV head's query heads want together; tail: that, and rows of little " +
      "attention too",
    placeholder: "NAME",
    schema: oneOf(LOSSES),
    fallback: TRAIN_DEFAULTS.loss,
  }),
  rate: valueFlag({
    group: "Training",
    help: "highest rate of learning",
    placeholder: "R",
    schema: decimal(0, 1),
    fallback: TRAIN_DEFAULTS.rate,
  }),
  decay: valueFlag({
    group: "Training",
    help: "weight decay of the producers' matrices",
    placeholder: "D",
    schema: decimal(0, 1),
    fallback: TRAIN_DEFAULTS.decay,
  }),
  seed: count("decides on rows and order", 0, 2 ** 32 - 1, TRAIN_DEFAULTS.seed),
  sinks: count("first rows that are no candidates", 0, 4096, TRAIN_DEFAULTS.sinks),
  window: count("most recent rows that are no candidates", 1, 65_536, TRAIN_DEFAULTS.window),
  inner: count("width of a producer between its two products", 8, 65_536, TRAIN_DEFAULTS.inner),
  stride: count("layers that a producer serves", 1, 1024, TRAIN_DEFAULTS.stride),
  firstLayer: valueFlag({
    group: "Training",
    help: "what the first layer, for which nothing is predicted, is in the table of budgets: " +
      "window (sinks and the most recent rows) or dense",
    placeholder: "ROLE",
    schema: oneOf(["window", "dense"]),
    fallback: "dense" as const,
  }),
  maxParameters: valueFlag({
    group: "Training",
    help: "parameters of the predictor at most, as a part of the model's",
    placeholder: "SHARE",
    schema: decimal(0, 1000),
    fallback: MAX_PARAMETER_SHARE,
  }),
  memory: valueFlag({
    group: "Training",
    help: "device memory for windows at most; those without room are read again each time",
    placeholder: "SIZE",
    schema: sizeBytes(MIB),
    fallback: 4 * 1024 * MIB,
    fallbackText: "4GiB",
  }),
  dryRun: switchFlag({
    group: "Output",
    help: "says how long it would take and how large it would be, and trains nothing",
  }),
  svg: valueFlag({
    group: "Output",
    help: "file for a picture: loss and recall of each producer by epoch",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  json: switchFlag({ group: "Output", help: "prints one line of JSON about the predictor" }),
  model,
  kernel,
} as const;

type Flags = Settings<typeof flags>;

/** Makes the engine; tests put one in its place that they close. */
export type OpenParts = typeof createEngineParts;

/** The command, over a way to make an engine in this isolate. */
export function trainCommand(open: OpenParts) {
  return defineCommand({
    name: "train",
    summary: "trains the predictor of the tokenbutler policy",
    usage: ["train --text FILE [--text FILE ...] [--out F] [flags]"],
    notes: [
      "The model runs once over windows of the text and is not changed; small networks learn to " +
      "tell from its hidden states which rows each KV head will attend to. Then it is measured what " +
      "the chosen rows are worth to each head, and budgets are shared out by that. The same text, " +
      "model, flags and adapter give the same bytes, also after the training was ended and went on.",
      `With --json: out, fingerprint, parameters, share (of the model's), recall (of the true top ` +
      `${MEASURED_BUDGET}) and mass (part of the attention on the attended rows; best_mass with ` +
      "the true top) on the held-out windows, start_recall (before training), layers (the same by " +
      "layer), seconds.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  if (settings.text.length === 0) throw new UsageError("--text is needed");
  const texts = settings.text.map((path) => readTextFile(path, "--text"));
  const path = modelPath(settings);
  const out = settings.out ?? defaultPredictorPath(path);
  const cache = settings.cache ?? out.replace(/(\.safetensors)?$/, ".training");
  const source = await openModel(path);
  source.close();
  const { config, numParameters } = source;
  const trainSettings = settingsOf(settings, config.contextLength);
  const shape: PredictorShape = {
    model: {
      fingerprint: await fingerprintOf(path),
      numLayers: config.numLayers,
      hiddenSize: config.hiddenSize,
      numHeads: config.numHeads,
      numKvHeads: config.numKvHeads,
      headDim: config.headDim,
    },
    stride: settings.stride,
    inner: settings.inner,
  };
  const share = checkShape(shape, numParameters, settings.maxParameters);
  if (!settings.dryRun) {
    checkWritable(out);
    if (settings.svg !== null) checkWritable(settings.svg);
    makeFolder(cache);
  }
  const samples = await samplesOf(path, texts, trainSettings);
  const began = performance.now();
  const kernels = await openKernels(Object.fromEntries(settings.kernel));
  if (settings.dryRun) {
    return await dryRun(settings, io, open, kernels, shape, trainSettings, samples);
  }
  using captured = await captureAll(
    settings,
    io,
    open,
    kernels,
    shape,
    trainSettings,
    samples,
    cache,
  );
  const result = await trainAll(settings, io, kernels, shape, trainSettings, captured, cache);
  const seconds = (performance.now() - began) / 1000;
  const summary = summaryOf(result, shape, share);
  writePredictor(out, {
    predictor: result.predictor,
    notes: {
      training: { ...trainSettings, text: settings.text.map(baseName) },
      results: summary,
      budgets: budgetsOf(result.heads, shape.model.numKvHeads, settings.firstLayer),
      program: VERSION,
    },
  });
  report(settings, io, out, cache, { ...summary, seconds, curves: result.curves });
  if (settings.svg !== null) writePicture(settings.svg, picture(result.curves));
  return EXIT.ok;
}

function settingsOf(settings: Flags, context: number): TrainSettings {
  const { windows, rows, epochs, heldOut, loss, rate, decay, seed, sinks, window } = settings;
  const { stride, inner } = settings;
  for (const [name, value] of Object.entries({ rows, inner })) {
    if (value % 8 !== 0) throw new UsageError(`--${name} must be a multiple of 8, but is ${value}`);
  }
  // Whole tiles, and no more than the model was trained for.
  const tokens = (wanted: number) => Math.floor(Math.min(wanted, context) / 8) * 8;
  return {
    ...TRAIN_DEFAULTS,
    ...{ windows, epochs, heldOut, loss, rate, decay, seed, sinks, window, stride, inner },
    rows: Math.min(rows, tokens(settings.tokens) / 2),
    tokens: tokens(settings.tokens),
    heldOutTokens: tokens(settings.heldOutTokens),
    heldOutRows: Math.min(TRAIN_DEFAULTS.heldOutRows, tokens(settings.heldOutTokens) / 2),
  };
}

async function fingerprintOf(path: string): Promise<string> {
  const source = await openModel(path);
  try {
    return await source.fingerprint();
  } finally {
    source.close();
  }
}

function checkShape(shape: PredictorShape, modelParameters: number, most: number): number {
  if (producersOf(shape).length === 0) {
    throw new CommandError("a model of one layer has nothing to predict");
  }
  const share = parameterCount(shape) / modelParameters;
  if (share <= most) return share;
  throw new UsageError(
    `a predictor with --inner ${shape.inner} has ${parameterCount(shape)} parameters, ` +
      `${(100 * share).toFixed(2)} % of the model's, and --max-parameters allows ` +
      `${(100 * most).toFixed(2)} %: take a smaller --inner, or allow more`,
  );
}

function makeFolder(path: string): void {
  try {
    Deno.mkdirSync(path, { recursive: true });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CommandError(`--cache: cannot make the folder ${path}: ${why}`);
  }
}

async function samplesOf(
  path: string,
  texts: readonly string[],
  settings: TrainSettings,
): Promise<Samples> {
  const { tokenizer } = await openTextSide(path, "text");
  if (tokenizer === undefined) {
    throw new CommandError("this model has no tokenizer: it cannot read the text");
  }
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  return takeSamples(texts, encode, bos, settings);
}

/** Both captures, whole. */
interface Captured extends Disposable {
  readonly train: CaptureFile;
  readonly heldOut: CaptureFile;
}

async function captureAll(
  settings: Flags,
  io: CliIo,
  open: OpenParts,
  kernels: Kernels,
  shape: PredictorShape,
  trainSettings: TrainSettings,
  samples: Samples,
  cache: string,
): Promise<Captured> {
  const files: CaptureFile[] = [];
  const openFile = async (name: string, windows: readonly CaptureWindow[]) => {
    const first = windows[0]!;
    const file = CaptureFile.open(`${cache}/${name}.capture`, {
      shape: {
        model: shape.model,
        stride: shape.stride,
        tokens: first.ids.length,
        rows: first.positions.length,
      },
      content: await digestOf(windows),
    });
    files.push(file);
    for (let i = 0; i < file.windows; i++) {
      if (file.check(i)) continue;
      io.stderr(`note: window ${i} of ${file.path} is damaged: it is made again\n`);
      file.truncate(i);
    }
    return file;
  };
  try {
    const train = await openFile("train", samples.train);
    const heldOut = await openFile("held_out", samples.heldOut);
    const lacking = samples.train.length - train.windows + samples.heldOut.length - heldOut.windows;
    if (lacking > 0) {
      const parts = await openEngine(settings, open, kernels, trainSettings);
      const bar = timedBar(io, "Running the model", lacking);
      try {
        let done = 0;
        const onProgress = () => bar.update(++done);
        for (
          const [file, windows] of [[heldOut, samples.heldOut], [train, samples.train]] as const
        ) {
          await capture({ parts, file, windows, chunk: parts.info.prefillChunk, onProgress });
        }
      } finally {
        bar.stop();
        parts.dispose();
      }
    }
    return {
      train,
      heldOut,
      [Symbol.dispose]: () => files.forEach((file) => file[Symbol.dispose]()),
    };
  } catch (error) {
    files.forEach((file) => file[Symbol.dispose]());
    throw error;
  }
}

async function openEngine(
  settings: Flags,
  open: OpenParts,
  kernels: Kernels,
  { tokens, heldOutTokens }: TrainSettings,
): Promise<EngineParts> {
  const longest = Math.max(tokens, heldOutTokens);
  const parts = await open(
    {
      modelPath: modelPath(settings),
      // A token of room beside the window: warming up takes a short step of both kinds.
      contextLength: longest + 1,
      maxSequences: 1,
      kvType: "f32",
      prefillChunk: Math.min(CHUNK, longest),
      ...DEFAULT_CACHE,
      kernelOverrides: Object.fromEntries(settings.kernel),
    },
    () => {},
    { kernels },
  );
  if (parts.info.contextLength >= longest) return parts;
  parts.dispose();
  throw new CommandError(
    `a window has ${longest} tokens, but memory allows ${parts.info.contextLength}: take fewer ` +
      "with --tokens",
  );
}

async function digestOf(windows: readonly CaptureWindow[]): Promise<string> {
  const text = JSON.stringify(windows.map(({ ids, positions }) => [ids, positions]));
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return new Uint8Array(bytes).toHex();
}

async function trainAll(
  settings: Flags,
  io: CliIo,
  kernels: Kernels,
  shape: PredictorShape,
  trainSettings: TrainSettings,
  captured: Captured,
  cache: string,
): Promise<TrainResult> {
  const each = trainSettings.epochs * captured.train.windows;
  const bar = timedBar(io, "Training", Math.max(1, each * producersOf(shape).length));
  try {
    const result = await train({
      kernels,
      plan: selectPlan(kernels.caps, Object.fromEntries(settings.kernel)),
      shape,
      settings: trainSettings,
      ...captured,
      checkpoint: `${cache}/checkpoint.safetensors`,
      memory: settings.memory,
      onProgress: ({ producer, step, steps, loss, recall }) => {
        bar.update(producer * steps + step);
        if (recall === null || io.stderrIsTerminal) return;
        const losses = loss === null ? "before training" : `loss ${loss.toFixed(4)}`;
        io.stderr(
          `producer ${producer}, step ${step} of ${steps}: ${losses}, recall ${
            recall.toFixed(4)
          }\n`,
        );
      },
    });
    return result!;
  } finally {
    bar.stop();
  }
}

/** What a predictor reached on the held-out windows. */
type Summary = ReturnType<typeof summaryOf>;

/** @returns Nothing that differs from run to run: it is written in the predictor's file. */
function summaryOf(result: TrainResult, shape: PredictorShape, share: number) {
  const { heads, curves } = result;
  const { numKvHeads } = shape.model;
  const mean = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const round = (value: number) => Number(value.toFixed(4));
  const layers = Array.from({ length: heads.length / numKvHeads }, (_, index) => {
    const of = heads.slice(index * numKvHeads, (index + 1) * numKvHeads);
    return {
      layer: index + 1,
      recall: round(mean(of.map(({ recall }) => recall))),
      mass: round(mean(of.map(({ mass }) => mass))),
      best_mass: round(mean(of.map(({ bestMass }) => bestMass))),
    };
  });
  return {
    fingerprint: shape.model.fingerprint,
    parameters: parameterCount(shape),
    share: Number(share.toPrecision(4)),
    recall: round(mean(heads.map(({ recall }) => recall))),
    mass: round(mean(heads.map(({ mass }) => mass))),
    best_mass: round(mean(heads.map(({ bestMass }) => bestMass))),
    start_recall: round(mean(curves.map(({ recalls }) => recalls[0]!))),
    layers,
  };
}

function report(
  settings: Flags,
  io: CliIo,
  out: string,
  cache: string,
  { seconds: exact, curves, ...summary }: Summary & {
    readonly seconds: number;
    readonly curves: TrainResult["curves"];
  },
): void {
  const seconds = Number(exact.toFixed(1));
  if (settings.json) {
    io.stdout(`${JSON.stringify({ out, ...summary, seconds, curves })}\n`);
    return;
  }
  io.stdout(
    `${out}: ${summary.parameters} parameters, ${(100 * summary.share).toFixed(2)} % of the ` +
      `model's; on held-out windows it finds ${
        (100 * summary.recall).toFixed(1)
      } % of the true top ` +
      `${MEASURED_BUDGET} rows and attends to ${
        (100 * summary.mass).toFixed(1)
      } % of the attention ` +
      `(at best ${(100 * summary.best_mass).toFixed(1)} %); ${seconds} s\n` +
      `${cache} can be deleted now\n`,
  );
}

/** Loss and recall by epoch, a line for each producer. */
function picture(curves: TrainResult["curves"]): string {
  const lines = (
    pick: (curve: TrainResult["curves"][number]) => readonly number[],
    first: number,
  ) =>
    curves.map((curve, index) => ({
      name: `producer ${index}`,
      points: pick(curve).map((value, epoch) => [epoch + first, value] as const),
    }));
  return lineCharts([
    {
      title: "Loss of the windows of an epoch, as they were seen",
      x: { label: "epoch", scale: "linear" },
      y: { label: "loss", scale: "linear" },
      series: lines(({ losses }) => losses, 1),
    },
    {
      title: `Recall of the true top-${MEASURED_BUDGET} on held-out windows`,
      x: { label: "epochs", scale: "linear" },
      y: { label: "recall", scale: "linear" },
      series: lines(({ recalls }) => recalls, 0),
    },
  ]);
}

async function dryRun(
  settings: Flags,
  io: CliIo,
  open: OpenParts,
  kernels: Kernels,
  shape: PredictorShape,
  trainSettings: TrainSettings,
  samples: Samples,
): Promise<number> {
  const { rows, tokens, epochs } = trainSettings;
  const layout = (windows: readonly CaptureWindow[]) =>
    new CaptureLayout({
      model: shape.model,
      stride: shape.stride,
      tokens: windows[0]!.ids.length,
      rows: windows[0]!.positions.length,
    }).recordBytes * windows.length;
  const disk = layout(samples.train) + layout(samples.heldOut);
  const parts = await openEngine(settings, open, kernels, trainSettings);
  const captureSeconds = await timeCapture(parts, samples);
  parts.dispose();
  const places = producersOf(shape);
  const sizes = sizesOf(shape, places[0]!, { rows, tokens });
  const device = DeviceTrainer.ownBytes(sizes) +
    DeviceTrainer.windowBytes(sizes) * samples.train.length;
  const step = await timeStep(kernels, settings, trainSettings, sizes);
  const trainSeconds = step * epochs * samples.train.length * places.length;
  const plan = {
    parameters: parameterCount(shape),
    windows: samples.train.length,
    held_out: samples.heldOut.length,
    disk_bytes: disk,
    device_bytes: Math.min(settings.memory, device),
    capture_seconds: Math.round(captureSeconds),
    train_seconds: Math.round(trainSeconds),
  };
  if (settings.json) io.stdout(`${JSON.stringify(plan)}\n`);
  else {
    io.stdout(
      `${plan.parameters} parameters; ${plan.windows} windows of ${tokens} tokens to train on, ` +
        `${plan.held_out} to measure on\n` +
        `running the model: about ${minutes(captureSeconds)}, ${
          Math.ceil(disk / MIB)
        } MiB on disk\n` +
        `training: about ${minutes(trainSeconds)}, ${
          Math.ceil(plan.device_bytes / MIB)
        } MiB on the ` +
        "device\n",
    );
  }
  return EXIT.ok;
}

/** Seconds that the model takes for all windows, from a chunk. */
async function timeCapture({ runner, kv, info }: EngineParts, samples: Samples): Promise<number> {
  const all = [...samples.train, ...samples.heldOut];
  const tokens = all[0]!.ids.slice(0, info.prefillChunk);
  kv.reserve(0, tokens.length);
  const began = performance.now();
  await runner.prefill({ slot: 0, start: 0, tokens, sample: null, scoring: null });
  const each = (performance.now() - began) / 1000 / tokens.length;
  kv.release(0);
  return each * all.reduce((sum, { ids }) => sum + ids.length, 0);
}

/** Seconds of a training step, on random values. */
async function timeStep(
  kernels: Kernels,
  settings: Flags,
  trainSettings: TrainSettings,
  sizes: ReturnType<typeof sizesOf>,
): Promise<number> {
  const plan = selectPlan(kernels.caps, Object.fromEntries(settings.kernel));
  using trainer = await DeviceTrainer.create({
    kernels,
    lanes: plan.rowLanes,
    subgroups: plan.subgroups,
    sizes,
    objective: trainSettings,
    clip: trainSettings.clip,
    decay: trainSettings.decay,
  });
  const { hiddenSize, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const random = (length: number) => Float32Array.from({ length }, () => Math.random() - 0.5);
  using window = trainer.openWindow({
    positions: Uint32Array.from({ length: rows }, (_, i) => tokens - rows + i),
    hidden: random(rows * hiddenSize),
    queries: random(served * numHeads * rows * headDim),
    keys: random(served * numKvHeads * tokens * headDim),
  });
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

function minutes(seconds: number): string {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} minutes`;
}

function baseName(path: string): string {
  return path.replace(/^.*[/\\]/, "");
}

export const command = trainCommand(createEngineParts);
