/** Trains a predictor from captured windows: producer by producer. @module */
import type { Producer } from "../butler/predictor/predictor.ts";
import type { Predictor } from "../butler/predictor/predictor.ts";
import {
  IMPORTANCE_DIM,
  type PredictorShape,
  type ProducerPlace,
  producersOf,
} from "../butler/predictor/shape.ts";
import { IMPORTANCE_PAIRS, STILL, type Turning } from "../butler/predictor/turns.ts";
import type { Kernels } from "../gpu/kernels.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import type { CaptureFile, ProducerWindow } from "./capture_file.ts";
import {
  type Checkpoint,
  type ProducerCurve,
  readCheckpoint,
  type RunningProducer,
  writeCheckpoint,
} from "./checkpoint.ts";
import { DeviceTrainer } from "./device/trainer.ts";
import { splitValues, startingState } from "./device/values.ts";
import { Draws } from "./draws.ts";
import { TrainError } from "./errors.ts";
import { type HeadMeasure, measure } from "./measure.ts";
import type { ProducerSizes, ProducerValues } from "./objective.ts";
import {
  measureSettings,
  QUICK_WINDOWS,
  RATE_PARTS,
  rateAt,
  type TrainSettings,
} from "./settings.ts";
import type { RopePairs } from "./projections.ts";
import { startOf } from "./start.ts";
import { WindowPool } from "./window_pool.ts";

/** What a training works with. */
export interface TrainRun {
  readonly kernels: Kernels;
  readonly plan: KernelPlan;
  readonly shape: PredictorShape;
  /** Of the model. */
  readonly rope: RopePairs;
  readonly settings: TrainSettings;
  readonly train: CaptureFile;
  readonly heldOut: CaptureFile;
  /** Windows that large budgets are measured on; may be {@linkcode heldOut}. */
  readonly table: CaptureFile;
  /** What to go on from, and what tells it apart; null: the closed form. */
  readonly from: { readonly predictor: Predictor; readonly digest: string } | null;
  /** File for the checkpoint. */
  readonly checkpoint: string;
  /** Device memory that may be used, in bytes. */
  readonly memory: number;
  readonly onProgress?: (progress: TrainProgress) => void;
  readonly signal?: AbortSignal;
}

/** Where a training stands. */
export interface TrainProgress {
  readonly producer: number;
  readonly producers: number;
  /** Steps of this producer that are done, of all of its steps. */
  readonly step: number;
  readonly steps: number;
  /** Of the epoch that was just over. */
  readonly loss: number | null;
  readonly recall: number | null;
}

/** What came of a training. */
export interface TrainResult {
  readonly predictor: Predictor;
  readonly curves: readonly ProducerCurve[];
  /** (layers after the first, KV heads) in one list. */
  readonly heads: readonly HeadMeasure[];
  /** The same on the windows for large budgets. */
  readonly tableHeads: readonly HeadMeasure[];
}

/** Between two checkpoints, in milliseconds. */
const CHECKPOINT_EVERY_MS = 30_000;

/**
 * Trains, from where the checkpoint stands.
 *
 * @returns Null if it was aborted; the checkpoint has what was done.
 * @throws {TrainError} `no_room`, `not_writable`, `wrong_run` or `damaged`.
 */
export async function train(run: TrainRun): Promise<TrainResult | null> {
  const { shape, settings } = run;
  const places = producersOf(shape);
  const id = await runId(run);
  let checkpoint = readCheckpoint(run.checkpoint, id);
  const heads: HeadMeasure[] = [];
  const tableHeads: HeadMeasure[] = [];
  for (const place of places) {
    const sizes = sizesOf(shape, place, run.train.origin.shape);
    if (checkpoint.done.length <= place.index) {
      const next = await trainProducer(run, id, checkpoint, place, sizes);
      if (next === null) return null;
      checkpoint = next;
    }
    const { values, turns } = checkpoint.done[place.index]!;
    const measured = (file: CaptureFile) =>
      measure(
        sizesOf(shape, place, file.origin.shape),
        splitValues(sizes, values),
        turningOf(run, turns),
        windowsOf(file, place.index),
        measureSettings(settings),
      );
    const found = measured(run.heldOut);
    heads.push(...found);
    tableHeads.push(...run.table === run.heldOut ? found : measured(run.table));
  }
  const predictor = assemble(shape, checkpoint, run);
  return { predictor, curves: checkpoint.curves, heads, tableHeads };
}

async function trainProducer(
  run: TrainRun,
  id: string,
  before: Checkpoint,
  place: ProducerPlace,
  sizes: ProducerSizes,
): Promise<Checkpoint | null> {
  const { settings, heldOut } = run;
  let running = before.running ?? begin(run, place, sizes);
  const turning = turningOf(run, running.turns);
  using trainer = await DeviceTrainer.create({
    kernels: run.kernels,
    lanes: run.plan.rowLanes,
    subgroups: run.plan.subgroups,
    sizes,
    turning,
    objective: settings,
    clip: settings.clip,
    decay: settings.decay,
    rateParts: RATE_PARTS,
  });
  const count = run.train.windows;
  const steps = settings.epochs * count;
  const recallOf = (values: Float32Array<ArrayBuffer>) => {
    const few = windowsOf(heldOut, place.index, QUICK_WINDOWS);
    const at = sizesOf(run.shape, place, heldOut.origin.shape);
    const byName = splitValues(sizes, values);
    const found = measure(at, byName, turning, few, measureSettings(settings));
    return found.reduce((sum, { recall }) => sum + recall, 0) / found.length;
  };
  const report = (step: number, loss: number | null, recall: number | null) =>
    run.onProgress?.({
      producer: place.index,
      producers: producersOf(run.shape).length,
      step,
      steps,
      loss,
      recall,
    });
  if (running.curve.recalls.length === 0) {
    const recall = recallOf(running.values);
    running = { ...running, curve: { losses: [], recalls: [recall] } };
    report(0, null, recall);
  }
  trainer.load(running);
  using windows = new WindowPool(run.train, run.memory, place.index, sizes, trainer);
  let saved = performance.now();
  for (let epoch = running.epochs; epoch < settings.epochs; epoch++) {
    let sum = 0;
    for (const index of new Draws(settings.seed, 1e6 + place.index * 1e4 + epoch).order(count)) {
      if (run.signal?.aborted) {
        writeCheckpoint(run.checkpoint, id, { ...before, running });
        return null;
      }
      const window = windows.open(index);
      trainer.step(window, rateAt(settings, trainer.steps, steps));
      sum += await trainer.loss();
      windows.close(window);
      report(trainer.steps, null, null);
    }
    const state = await trainer.state();
    if (!Number.isFinite(sum) || state.values.some((value) => !Number.isFinite(value))) {
      throw new TrainError(
        "diverged",
        `the training of producer ${place.index} diverged in epoch ${
          epoch + 1
        }: take a lower --rate`,
      );
    }
    const curve: ProducerCurve = {
      losses: [...running.curve.losses, sum / count],
      recalls: [...running.curve.recalls, recallOf(state.values)],
    };
    running = { ...state, turns: running.turns, epochs: epoch + 1, curve };
    report(trainer.steps, curve.losses.at(-1)!, curve.recalls.at(-1)!);
    if (performance.now() - saved > CHECKPOINT_EVERY_MS) {
      writeCheckpoint(run.checkpoint, id, { ...before, running });
      saved = performance.now();
    }
  }
  const after = {
    done: [...before.done, { values: running.values, turns: running.turns }],
    curves: [...before.curves, running.curve],
    running: null,
  };
  writeCheckpoint(run.checkpoint, id, after);
  return after;
}

/** A producer in closed form, or as it was in the predictor to go on from. */
function begin(run: TrainRun, place: ProducerPlace, sizes: ProducerSizes): RunningProducer {
  const closedForm = () => {
    const { values, turning } = startOf(
      sizes,
      run.rope,
      run.settings.sinks,
      () => windowsOf(run.train, place.index),
    );
    return { values, turns: turning.turns };
  };
  const { values, turns } = run.from !== null ? valuesOf(run.from.predictor, place) : closedForm();
  return {
    ...startingState(sizes, values),
    turns,
    epochs: 0,
    curve: { losses: [], recalls: [] },
  };
}

/** Values of a producer and of the keys that it chooses by. */
function valuesOf(
  { shape, producers, keys, turns }: Predictor,
  { index, first, count }: ProducerPlace,
): { values: ProducerValues; turns: Int32Array<ArrayBuffer> } {
  const { numKvHeads, headDim } = shape.model;
  const { up, down, normWeight, normBias } = producers[index]!;
  const part = <T extends Float32Array | Int32Array>(all: T, each: number) =>
    all.slice(first * each, (first + count) * each) as T;
  return {
    values: {
      up,
      down,
      gain: normWeight,
      bias: normBias,
      keys: part(keys, numKvHeads * headDim * IMPORTANCE_DIM),
    },
    turns: Int32Array.from(part(turns, numKvHeads * IMPORTANCE_PAIRS)),
  };
}

function turningOf({ rope }: TrainRun, turns: Int32Array<ArrayBuffer>): Turning {
  return { turns, frequencies: rope.inverseFrequencies };
}

/** Sizes of a producer's training over the windows of a capture. */
export function sizesOf(
  { model, inner }: PredictorShape,
  place: ProducerPlace,
  { rows, tokens }: { readonly rows: number; readonly tokens: number },
): ProducerSizes {
  const { hiddenSize, numHeads, numKvHeads, headDim } = model;
  return { hiddenSize, inner, served: place.count, numHeads, numKvHeads, headDim, rows, tokens };
}

function* windowsOf(
  file: CaptureFile,
  producer: number,
  most = Infinity,
): Generator<ProducerWindow> {
  for (let i = 0; i < Math.min(file.windows, most); i++) yield file.read(i, producer);
}

async function runId(run: TrainRun): Promise<string> {
  const text = JSON.stringify([
    run.shape,
    run.settings,
    RATE_PARTS,
    run.rope,
    run.train.origin.content,
    run.heldOut.origin.content,
    run.table.origin.content,
    run.from?.digest,
  ]);
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return new Uint8Array(bytes).toHex();
}

function assemble(shape: PredictorShape, { done }: Checkpoint, run: TrainRun): Predictor {
  const { numLayers, numKvHeads, headDim } = shape.model;
  const size = numKvHeads * headDim * IMPORTANCE_DIM;
  const keys = new Float32Array(numLayers * size);
  const turns = new Int32Array(numLayers * numKvHeads * IMPORTANCE_PAIRS).fill(STILL);
  const producers = producersOf(shape).map((place): Producer => {
    const sizes = sizesOf(shape, place, run.train.origin.shape);
    const { values: flat, turns: own } = done[place.index]!;
    const values = splitValues(sizes, flat);
    keys.set(values.keys, place.first * size);
    turns.set(own, place.first * numKvHeads * IMPORTANCE_PAIRS);
    return {
      normWeight: values.gain,
      normBias: values.bias,
      up: values.up,
      down: values.down,
    };
  });
  return { shape, producers, keys, turns };
}
