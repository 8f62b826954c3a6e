/** The flags of `train`, and the settings of a training from them. @module */
import { MAX_PARAMETER_SHARE } from "../../../butler/predictor/shape.ts";
import { PREDICTOR_NAME } from "../../../model/side_files.ts";
import { LOSSES } from "../../../train/objective.ts";
import { MEASURED_BUDGET, TRAIN_DEFAULTS, type TrainSettings } from "../../../train/settings.ts";
import { listFlag, type Settings, switchFlag, UsageError, valueFlag } from "../../flags.ts";
import { jobFlags } from "../../job_flags.ts";
import { engineFlags } from "../../model_flags.ts";
import { decimal, integer, oneOf, sizeBytes, text } from "../../values.ts";

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

/** Flags of `train`. */
export const trainFlags = jobFlags("train", {
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
  tableTokens: valueFlag({
    group: "Training",
    help:
      "tokens of as many windows that budgets are measured on which are more than a quarter of a " +
      "held-out window: a context like those to come",
    placeholder: "N",
    schema: integer(64, 2 ** 17),
    fallback: null,
    fallbackText: "the larger of --tokens and --held-out-tokens",
  }),
  from: valueFlag({
    group: "Training",
    help: "predictor of the same model to go on from, in the place of the closed form; with " +
      "--epochs 0 only its budgets are measured anew",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
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
      "window (sinks and the most recent rows), dense, or auto: window where that misses no more " +
      "of the attention than chosen rows do elsewhere",
    placeholder: "ROLE",
    schema: oneOf(["window", "dense", "auto"]),
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
});

/** Values of the flags. */
export type TrainFlags = Settings<typeof trainFlags>;

/**
 * Settings of a training.
 *
 * @param context Tokens that the model was trained for: windows have no more.
 * @throws {UsageError} If a size does not fit the kernels.
 */
export function settingsOf(settings: TrainFlags, context: number): TrainSettings {
  const { windows, rows, epochs, heldOut, loss, rate, decay, seed, sinks, window } = settings;
  const { stride, inner } = settings;
  for (const [name, value] of Object.entries({ rows, inner })) {
    if (value % 8 !== 0) throw new UsageError(`--${name} must be a multiple of 8, but is ${value}`);
  }
  // Whole tiles, and no more than the model was trained for.
  const tiles = (count: number) => Math.floor(count / 8) * 8;
  const tokens = (wanted: number) => tiles(Math.min(wanted, context));
  const wantedTable = settings.tableTokens ?? Math.max(settings.tokens, settings.heldOutTokens);
  const least = sinks + window + MEASURED_BUDGET;
  for (const measured of [settings.heldOutTokens, wantedTable].map(tokens)) {
    if (measured > least) continue;
    throw new UsageError(
      `windows to measure on have ${measured} tokens, and their last row nothing to choose: more ` +
        `than ${least} are needed, the sinks, the window and ${MEASURED_BUDGET} rows ` +
        "(--held-out-tokens, --table-tokens)",
    );
  }
  // Nothing is learnt from windows then: one of each text.
  const count = settings.from !== null && epochs === 0 ? settings.text.length : windows;
  return {
    ...TRAIN_DEFAULTS,
    ...{ windows: count, epochs, heldOut, loss, rate, decay, seed, sinks, window, stride, inner },
    rows: tiles(Math.min(rows, tokens(settings.tokens) / 2)),
    tokens: tokens(settings.tokens),
    heldOutTokens: tokens(settings.heldOutTokens),
    heldOutRows: Math.min(TRAIN_DEFAULTS.heldOutRows, tokens(settings.heldOutTokens) / 2),
    tableTokens: tokens(wantedTable),
  };
}
