/** `calibrate`: what the `loki` policy needs, from a text that runs through the model. @module */
import { calibrate, type CalibrationResult } from "../../butler/calibration/calibrate.ts";
import { defaultCalibrationPath, PROJECTED_DIM } from "../../butler/calibration/file.ts";
import { MOST_KEY_ROWS, openKeys, readKeys } from "../../butler/calibration/read_keys.ts";
import { cutWindows } from "../../butler/calibration/windows.ts";
import { writeCalibration } from "../../butler/calibration/write.ts";
import { createEngineParts, type EngineParts } from "../../engine/create.ts";
import { DEFAULT_CACHE, type EngineOptions } from "../../engine/types.ts";
import { openModel } from "../../model/open.ts";
import type { ModelConfig } from "../../model/types.ts";
import { CALIBRATION_NAME } from "../../model/side_files.ts";
import { defineCommand, MisfitError } from "../command.ts";
import { listFlag, type Settings, switchFlag, UsageError, valueFlag } from "../flags.ts";
import { readTextFile } from "../inputs.ts";
import { type CliIo, EXIT } from "../io.ts";
import { jobFlags } from "../job_flags.ts";
import { engineFlags, modelPath } from "../model_flags.ts";
import { loadProgress, progressBar } from "../progress.ts";
import { openTextSide } from "../text_side.ts";
import { integer, text } from "../values.ts";
import { checkOutputs } from "../outputs.ts";
import { VERSION } from "../version.ts";

/**
 * Tokens of a prefill chunk. Not measured as for requests: the same text has to give the same file
 * however busy the machine is, and sums of chunks of other sizes may differ in their last bits.
 */
const CHUNK = 256;

const { model, prefillChunk, kernel } = engineFlags;

const flags = jobFlags("calibrate", {
  text: listFlag({
    group: "Calibration",
    help: "a UTF-8 file with text like that which the model will read",
    placeholder: "FILE",
    short: "f",
    schema: text,
  }),
  out: valueFlag({
    group: "Calibration",
    help: "the file to write",
    placeholder: "F",
    short: "o",
    schema: text,
    fallback: null,
    fallbackText: `${CALIBRATION_NAME} beside the model, where it is found by itself`,
  }),
  tokens: valueFlag({
    group: "Calibration",
    help: "tokens of text that are used, in equal parts from each file",
    placeholder: "N",
    schema: integer(64, 2 ** 24),
    fallback: 4096,
  }),
  context: valueFlag({
    group: "Calibration",
    help: "tokens of a window; each window is a text of its own that begins at position 0",
    placeholder: "N",
    short: "c",
    aliases: ["ctx-size"],
    schema: integer(16, 2 ** 24),
    fallback: 2048,
    fallbackText: "2048, or what the model was trained for if that is less",
  }),
  json: switchFlag({ group: "Output", help: "prints one line of JSON about the file" }),
  model,
  prefillChunk: { ...prefillChunk, fallbackText: `${CHUNK}, so that files are repeatable` },
  kernel,
});

/** Makes the engine; tests put one in its place that they close. */
export type OpenParts = typeof createEngineParts;

/** The command, over a way to make an engine in this isolate. */
export function calibrateCommand(open: OpenParts) {
  return defineCommand({
    name: "calibrate",
    summary: "makes what the loki policy needs from a text",
    usage: ["calibrate --text FILE [--text FILE ...] [--out F] [flags]"],
    notes: [
      `Writes the ${PROJECTED_DIM} leading principal components of the keys, after RoPE, of each ` +
      "layer and KV head, bound to the model by its fingerprint. The same text, model, flags and " +
      "adapter give the same bytes.",
      "With --json: out, fingerprint, tokens, windows, context, layers, kv_heads, head_size, " +
      "dimensions, energy_kept (mean part of the squared length of the keys in those dimensions), " +
      "seconds.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Settings<typeof flags>, io: CliIo, open: OpenParts): Promise<number> {
  if (settings.text.length === 0) throw new UsageError("--text is needed");
  const texts = settings.text.map((path) => readTextFile(path, "--text"));
  const path = modelPath(settings);
  const out = settings.out ?? defaultCalibrationPath(path);
  checkOutputs({ out });
  const config = await configOf(path);
  const context = Math.min(settings.context, config.contextLength);
  const windows = await windowsOf(path, texts, { tokens: settings.tokens, context });
  const longest = Math.max(...windows.map((ids) => ids.length));
  const parts = await openParts(open, io, {
    modelPath: path,
    // A token of room beside the window: warming up takes a short step of both kinds.
    contextLength: longest + 1,
    maxSequences: 1,
    kvType: "f32",
    prefillChunk: Math.min(settings.prefillChunk ?? CHUNK, longest),
    ...DEFAULT_CACHE,
    kernelOverrides: Object.fromEntries(settings.kernel),
  });
  const began = performance.now();
  const result = await runOn(parts, config, windows, io);
  writeCalibration(out, result.calibration);
  const seconds = (performance.now() - began) / 1000;
  report(settings, io, { out, windows: windows.length, seconds, result });
  return EXIT.ok;
}

async function configOf(path: string): Promise<ModelConfig> {
  const source = await openModel(path);
  source.close();
  return source.config;
}

async function windowsOf(
  path: string,
  texts: readonly string[],
  options: { readonly tokens: number; readonly context: number },
): Promise<number[][]> {
  const { tokenizer } = await openTextSide(path, "text");
  if (tokenizer === undefined) {
    throw new MisfitError("this model has no tokenizer: it cannot read the text");
  }
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  const windows = cutWindows(texts, encode, bos, options);
  if (windows.length === 0) throw new MisfitError("--text: the text gives no token");
  return windows;
}

async function openParts(
  open: OpenParts,
  io: CliIo,
  options: EngineOptions,
): Promise<EngineParts> {
  const progress = loadProgress(io);
  try {
    const parts = await open(options, (step) => progress.report(step));
    if (parts.info.contextLength >= options.contextLength! - 1) return parts;
    throw new MisfitError(
      `a window has ${options.contextLength! - 1} tokens, but memory allows ` +
        `${parts.info.contextLength}: give a smaller --context`,
    );
  } finally {
    progress.stop();
  }
}

async function runOn(
  parts: EngineParts,
  { numLayers, numKvHeads, headDim }: ModelConfig,
  windows: readonly (readonly number[])[],
  io: CliIo,
): Promise<CalibrationResult> {
  const { fingerprint } = parts.info.model;
  using keys = await openKeys(parts, { numKvHeads, headDim });
  const bar = progressBar(
    io,
    "Calibrating",
    windows.reduce((sum, ids) => sum + ids.length, 0),
  );
  try {
    return await calibrate({
      model: { fingerprint, numLayers, numKvHeads, headDim },
      runner: parts.runner,
      kv: parts.kv,
      readKeys: (...place) => readKeys(keys, ...place),
      rowsPerRead: MOST_KEY_ROWS,
      windows,
      chunk: parts.info.prefillChunk,
      program: VERSION,
      onProgress: (done) => bar.update(done),
    });
  } finally {
    bar.stop();
  }
}

function report(
  settings: Settings<typeof flags>,
  io: CliIo,
  { out, windows, seconds, result }: {
    readonly out: string;
    readonly windows: number;
    readonly seconds: number;
    readonly result: CalibrationResult;
  },
): void {
  const { model, origin } = result.calibration;
  const kept = result.shares.reduce((sum, share) => sum + share, 0) / result.shares.length;
  if (origin.tokens < settings.tokens) {
    io.stderr(`note: the text gave ${origin.tokens} tokens of the ${settings.tokens} asked for\n`);
  }
  if (settings.json) {
    const summary = {
      out,
      fingerprint: model.fingerprint,
      tokens: origin.tokens,
      windows,
      context: origin.context,
      layers: model.numLayers,
      kv_heads: model.numKvHeads,
      head_size: model.headDim,
      dimensions: PROJECTED_DIM,
      energy_kept: kept,
      seconds,
    };
    io.stdout(`${JSON.stringify(summary)}\n`);
    return;
  }
  io.stdout(
    `${out}: ${PROJECTED_DIM} of ${model.headDim} dimensions hold ` +
      `${
        (100 * kept).toFixed(1)
      } % of the squared length of the keys; ${origin.tokens} tokens in ` +
      `${windows} windows, ${seconds.toFixed(1)} s\n`,
  );
}

export const command = calibrateCommand(createEngineParts);
