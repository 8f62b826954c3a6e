/** `train`: a predictor for the tokenbutler policy, from text that runs through the model. @module */
import type { BudgetTable } from "../../butler/budget_table.ts";
import {
  defaultPredictorPath,
  encodePredictor,
  type PredictorNotes,
  readPredictor,
  type StoredPredictor,
} from "../../butler/predictor/file.ts";
import { parameterCount, type PredictorShape, producersOf } from "../../butler/predictor/shape.ts";
import { writePredictor } from "../../butler/predictor/write.ts";
import type { LayerRole } from "../../butler/settings_types.ts";
import { createEngineParts, openKernels } from "../../engine/create.ts";
import { TRAIN_TILE } from "../../gpu/ops/train.ts";
import { selectPlan } from "../../gpu/plan.ts";
import { z } from "zod";
import { openModel } from "../../model/open.ts";
import { ropeForContext } from "../../model/rope.ts";
import type { RopeConfig } from "../../model/types.ts";
import { budgetsOf, tellsRestless } from "../../train/budgets.ts";
import { chosenShares, isWindowEnough } from "../../train/first_layer.ts";
import type { RopePairs } from "../../train/projections.ts";
import { type Samples, takeSamples } from "../../train/samples.ts";
import { MEASURED_BUDGET, type TrainSettings } from "../../train/settings.ts";
import { sizesOf, train, type TrainResult } from "../../train/train.ts";
import { keptWindows } from "../../train/window_pool.ts";
import { defineCommand, MisfitError } from "../command.ts";
import { UsageError } from "../flags.ts";
import { readTextFile } from "../inputs.ts";
import { type CliIo, EXIT } from "../io.ts";
import { modelPath } from "../model_flags.ts";
import { checkOutputs, writePicture } from "../outputs.ts";
import { timedBar } from "../progress.ts";
import { openTextSide } from "../text_side.ts";
import { VERSION } from "../version.ts";
import { captureAll, type Captured, contextOf } from "./train/captures.ts";
import { dryRun } from "./train/estimate.ts";
import { firstLayerShares } from "./train/first_layer.ts";
import { settingsOf, type TrainFlags, trainFlags } from "./train/flags.ts";
import type { OpenParts, TrainJob } from "./train/job.ts";
import { picture, report, summaryOf } from "./train/report.ts";

/** The command, over a way to make an engine in this isolate. */
export function trainCommand(open: OpenParts) {
  return defineCommand({
    name: "train",
    summary: "trains the predictor of the tokenbutler policy",
    usage: ["train --text FILE [--text FILE ...] [--out F] [flags]"],
    notes: [
      "The model runs once over windows of the text and is not changed; small networks learn to " +
      "tell from its hidden states which rows each KV head will attend to. Then it is measured what " +
      "the chosen rows are worth to each head, and budgets are shared out by that; and which layers " +
      "lose too much with rows that an earlier step chose: they will choose at every step. The same " +
      "text, model, flags and adapter give the same bytes, also after the training was ended and " +
      "went on.",
      `With --json: out, fingerprint, parameters, share (of the model's), recall (of the true top ` +
      `${MEASURED_BUDGET}) and mass (part of the attention on the attended rows; best_mass with ` +
      "the true top) on the held-out windows, start_recall (before training), layers (the same by " +
      "layer), restless (layers that choose at every step), seconds.",
    ],
    flags: trainFlags,
    run: (flags, io) => run(flags, io, open),
  });
}

async function run(flags: TrainFlags, io: CliIo, open: OpenParts): Promise<number> {
  if (flags.text.length === 0) throw new UsageError("--text is needed");
  const texts = flags.text.map((path) => readTextFile(path, "--text"));
  const path = modelPath(flags);
  const out = flags.out ?? defaultPredictorPath(path);
  const cache = flags.cache ?? out.replace(/(\.safetensors)?$/, ".training");
  const source = await openModel(path);
  source.close();
  const { config, numParameters } = source;
  const settings = settingsOf(flags, config.contextLength);
  const shape: PredictorShape = {
    model: {
      fingerprint: await fingerprintOf(path),
      numLayers: config.numLayers,
      hiddenSize: config.hiddenSize,
      numHeads: config.numHeads,
      numKvHeads: config.numKvHeads,
      headDim: config.headDim,
    },
    stride: flags.stride,
    inner: flags.inner,
  };
  const share = checkShape(shape, numParameters, flags.maxParameters);
  const from = flags.from === null ? null : await openFrom(flags.from, shape);
  if (!flags.dryRun) {
    checkOutputs({ out });
    checkOutputs({ svg: flags.svg });
    makeFolder(cache);
  }
  const samples = await samplesOf(path, texts, settings);
  // The first producer serves the most layers. Better now than after the model ran.
  keptWindows(sizesOf(shape, producersOf(shape)[0]!, settings), flags.memory);
  const began = performance.now();
  const kernels = await openKernels(Object.fromEntries(flags.kernel));
  const rope = ropeForContext(config.rope, contextOf(settings));
  const job: TrainJob = { flags, io, open, kernels, shape, rope, settings, samples };
  if (flags.dryRun) {
    await dryRun(job);
    return EXIT.ok;
  }
  using captured = await captureAll(job, cache);
  const result = await trainAll(job, captured, cache, from);
  const seconds = (performance.now() - began) / 1000;
  // Where nothing was learnt, what tells how it was learnt stays.
  const learnt = from === null || settings.epochs > 0 ? null : from.notes;
  const summary = { ...summaryOf(result, shape, share), ...startOf(learnt) };
  const budgets = await tableOf(job, result);
  if (![result.heads, result.tableHeads].some(tellsRestless)) {
    io.stderr(
      "note: the rows of the held-out windows lie too far apart to tell which layers must choose at " +
        "every step: take more of them (--held-out), or shorter ones (--held-out-tokens)\n",
    );
  }
  writePredictor(out, {
    predictor: result.predictor,
    notes: {
      training: learnt === null ? { ...settings, text: flags.text.map(baseName) } : {
        ...z.looseObject({}).catch({}).parse(learnt.training),
        tableTokens: settings.tableTokens,
      },
      results: summary,
      budgets,
      program: VERSION,
    },
  });
  const { restless = [] } = budgets;
  report(flags.json, io, out, cache, { ...summary, restless, seconds, curves: result.curves });
  if (flags.svg !== null) writePicture(flags.svg, picture(result.curves));
  return EXIT.ok;
}

/** The table of budgets; says what is decided of the first layer where that is measured. */
async function tableOf(job: TrainJob, result: TrainResult): Promise<BudgetTable> {
  const { flags: { firstLayer }, io, settings, shape } = job;
  const tableWith = (first: LayerRole) =>
    budgetsOf(
      { heads: result.heads, tokens: settings.heldOutTokens },
      { heads: result.tableHeads, tokens: settings.tableTokens },
      shape.model.numKvHeads,
      first,
    );
  if (firstLayer !== "auto") return tableWith(firstLayer);
  const table = tableWith("window");
  const means = table.points.map(({ mean }) => mean);
  const window = await firstLayerShares(job, means);
  const chosen = chosenShares(table, result.heads);
  const role = isWindowEnough({ window, chosen }) ? "window" : "dense";
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  io.stderr(
    `note: the first layer is ${role}: of its attention a window covers ${
      percent(window[0]!)
    } at a mean budget of ${means[0]} and ${percent(window.at(-1)!)} at ${means.at(-1)}, ` +
      `chosen rows cover ${percent(chosen[0]!)} and ${percent(chosen.at(-1)!)} elsewhere\n`,
  );
  return tableWith(role);
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
  const { model } = shape;
  if (producersOf(shape).length === 0) {
    throw new MisfitError("a model of one layer has nothing to predict");
  }
  for (const [name, size] of [["states", model.hiddenSize], ["heads", model.headDim]] as const) {
    if (size % TRAIN_TILE === 0) continue;
    throw new MisfitError(
      `${name} of ${size} numbers, no multiple of ${TRAIN_TILE}, are not trained on`,
    );
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
    throw new MisfitError(`--cache: cannot make the folder ${path}: ${why}`);
  }
}

/** A predictor to go on from. */
type Opened = StoredPredictor & { readonly digest: string };

/** @throws {MisfitError} If its sizes are not those that were asked for. */
async function openFrom(path: string, shape: PredictorShape): Promise<Opened> {
  const stored = readPredictor(path, shape.model);
  const { stride, inner } = stored.predictor.shape;
  if (stride !== shape.stride || inner !== shape.inner) {
    throw new MisfitError(
      `--from: ${path} has a stride of ${stride} and a width of ${inner}: give ` +
        `--stride ${stride} --inner ${inner}`,
    );
  }
  const bytes = await crypto.subtle.digest("SHA-256", encodePredictor(stored));
  return { ...stored, digest: new Uint8Array(bytes).toHex() };
}

/** Recall before training, of a predictor that was not trained any more. */
function startOf(notes: PredictorNotes | null): { start_recall?: number } {
  const { success, data } = z.object({ start_recall: z.number() }).safeParse(notes?.results);
  return success ? data : {};
}

async function samplesOf(
  path: string,
  texts: readonly string[],
  settings: TrainSettings,
): Promise<Samples> {
  const { tokenizer } = await openTextSide(path, "text");
  if (tokenizer === undefined) {
    throw new MisfitError("this model has no tokenizer: it cannot read the text");
  }
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  return takeSamples(texts, encode, bos, settings);
}

async function trainAll(
  { flags, io, kernels, shape, rope, settings }: TrainJob,
  captured: Captured,
  cache: string,
  from: Opened | null,
): Promise<TrainResult> {
  const each = settings.epochs * captured.train.windows;
  const bar = timedBar(io, "Training", Math.max(1, each * producersOf(shape).length));
  try {
    const result = await train({
      kernels,
      plan: selectPlan(kernels.caps, Object.fromEntries(flags.kernel)),
      shape,
      rope: pairsOf(rope),
      settings,
      ...captured,
      from,
      checkpoint: `${cache}/checkpoint.safetensors`,
      memory: flags.memory,
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

/** What a training needs to know of RoPE, and what names it in a checkpoint. */
function pairsOf({ dimensions, pairing, inverseFrequencies }: RopeConfig): RopePairs {
  return { dimensions, pairing, inverseFrequencies };
}

function baseName(path: string): string {
  return path.replace(/^.*[/\\]/, "");
}

export const command = trainCommand(createEngineParts);
