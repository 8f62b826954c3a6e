/** `eval recall`: how many of the rows that matter most does the predictor choose? @module */
import { cutWindows } from "../../../butler/calibration/windows.ts";
import { findPredictor, readPredictor } from "../../../butler/predictor/file.ts";
import type { Predictor } from "../../../butler/predictor/predictor.ts";
import {
  IMPORTANCE_DIM,
  type ProducerPlace,
  producersOf,
} from "../../../butler/predictor/shape.ts";
import { createEngineParts } from "../../../engine/create.ts";
import { DEFAULT_CACHE } from "../../../engine/types.ts";
import { Results } from "../../../eval/results.ts";
import { openModel } from "../../../model/open.ts";
import { lineCharts } from "../../../report/chart.ts";
import { capture, type CaptureWindow } from "../../../train/capture.ts";
import { CaptureFile, type ProducerWindow } from "../../../train/capture_file.ts";
import { Draws } from "../../../train/draws.ts";
import { type HeadMeasure, measure } from "../../../train/measure.ts";
import type { ProducerValues } from "../../../train/objective.ts";
import { splitText } from "../../../train/samples.ts";
import { sizesOf } from "../../../train/train.ts";
import { CommandError, defineCommand } from "../../command.ts";
import { listFlag, type Settings, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { timedBar } from "../../progress.ts";
import { integer, oneOf, text } from "../../values.ts";
import { evalFlags, group, openEncoder, type OpenParts, originOf } from "./shared.ts";

const { policies: _, ...shared } = evalFlags;

const flags = {
  text: listFlag({ group, help: "a UTF-8 file", placeholder: "FILE", short: "f", schema: text }),
  part: valueFlag({
    group,
    help: "which part of each text: unseen, its last twentieth, which train never sees; or all",
    placeholder: "PART",
    schema: oneOf(["unseen", "all"]),
    fallback: "unseen" as const,
  }),
  windows: valueFlag({
    group,
    help: "windows, in equal parts from each text",
    placeholder: "N",
    schema: integer(1, 1e5),
    fallback: 8,
  }),
  tokens: valueFlag({
    group,
    help: "tokens of a window; rows of its second half are measured",
    placeholder: "N",
    schema: integer(64, 2 ** 17),
    fallback: 1024,
  }),
  rows: valueFlag({
    group,
    help: "rows of a window",
    placeholder: "N",
    schema: integer(1, 4096),
    fallback: 64,
  }),
  budget: valueFlag({
    group,
    help: "rows that are chosen, beside sinks and window",
    placeholder: "B",
    schema: integer(1, 65_536),
    fallback: 64,
  }),
  svg: valueFlag({
    group: "Output",
    help: "file for a picture: recall and covered attention by layer",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  ...shared,
} as const;

type Flags = Settings<typeof flags>;

/** What was measured of a KV head. */
interface RecallFigure extends Omit<HeadMeasure, "added" | "best"> {
  readonly layer: number;
  readonly head: number;
}

/** The command, over a way to make an engine in this isolate. */
export function recallCommand(open: OpenParts) {
  return defineCommand({
    name: "eval recall",
    summary: "how many of the rows that matter most does the predictor choose",
    usage: ["eval recall --text FILE [--text FILE ...] [flags]"],
    notes: [
      "By layer and KV head: recall, the share of the true top-B (by the largest q . k of the group's " +
      "heads) among the chosen rows; mass, the part of the attention that sinks, window and chosen " +
      "rows have, and the same with the true top-B. The means are over all layers but the first, all " +
      "KV heads and rows.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  if (settings.text.length === 0) throw new UsageError("--text is needed");
  const path = modelPath(settings);
  const file = settings.predictor ?? findPredictor(path);
  if (file === null) {
    throw new CommandError("there is no predictor: make one with tokenbutler train");
  }
  const source = await openModel(path);
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  source.close();
  const model = { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim };
  const { predictor } = readPredictor(file, model);
  const windows = await windowsOf(settings, path);
  const parts = await open({
    modelPath: path,
    contextLength: settings.tokens + 1,
    maxSequences: 1,
    kvType: "f32",
    prefillChunk: Math.min(256, settings.tokens),
    ...DEFAULT_CACHE,
    kernelOverrides: Object.fromEntries(settings.kernel),
  }, () => {});
  const folder = await Deno.makeTempDir({ prefix: "tokenbutler_recall_" });
  try {
    const origin = await originOf("recall", settings, path, parts.info, {
      tokens: settings.tokens,
      windows: windows.length,
      rows: settings.rows,
      budget: settings.budget,
      part: settings.part,
    });
    const results = new Results<RecallFigure>(settings.out, origin);
    if (results.figures.length === 0) {
      const bar = timedBar(io, "Running the model", windows.length);
      using captured = CaptureFile.open(`${folder}/windows`, {
        shape: {
          model,
          stride: predictor.shape.stride,
          tokens: settings.tokens,
          rows: settings.rows,
        },
        content: "",
      });
      const chunk = parts.info.prefillChunk;
      try {
        const onProgress = (done: number) => bar.update(done);
        await capture({ parts, file: captured, windows, chunk, onProgress });
      } finally {
        bar.stop();
      }
      for (const place of producersOf(predictor.shape)) {
        measureProducer(settings, predictor, place, captured)
          .forEach(({ added: __, best: ___, ...of }, i) =>
            results.figures.push({
              layer: place.first + Math.floor(i / numKvHeads),
              head: i % numKvHeads,
              ...of,
            })
          );
      }
      results.save();
    }
    print(settings, io, results);
    return EXIT.ok;
  } finally {
    parts.dispose();
    await Deno.remove(folder, { recursive: true });
  }
}

function measureProducer(
  { sinks, window, budget }: Flags,
  predictor: Predictor,
  place: ProducerPlace,
  captured: CaptureFile,
): HeadMeasure[] {
  const { normWeight: gain, normBias: bias, up, down } = predictor.producers[place.index]!;
  const { numKvHeads, headDim } = predictor.shape.model;
  const size = numKvHeads * headDim * IMPORTANCE_DIM;
  const keys = predictor.keys.subarray(place.first * size, (place.first + place.count) * size);
  const values: ProducerValues = { up, down, keys, gain, bias };
  function* windows(): Generator<ProducerWindow> {
    for (let i = 0; i < captured.windows; i++) yield captured.read(i, place.index);
  }
  const sizes = sizesOf(predictor.shape, place, captured.origin.shape);
  return measure(sizes, values, windows(), { sinks, window, budget, counts: [] });
}

async function windowsOf(settings: Flags, path: string): Promise<CaptureWindow[]> {
  const { encode, bos } = await openEncoder(path);
  const { tokens, windows, rows, part } = settings;
  const texts = settings.text.map((file) => {
    const whole = readTextFile(file, "--text");
    return part === "all" ? whole : splitText(whole).unseen;
  });
  const found = cutWindows(texts, encode, bos, { tokens: windows * tokens, context: tokens })
    .filter((ids) => ids.length === tokens);
  if (found.length === 0) {
    throw new CommandError(
      `the text has no window of ${tokens} tokens: take --part all if training did not see it, or ` +
        "fewer --tokens",
    );
  }
  return found.map((ids, i) => ({
    ids,
    positions: new Draws(1, i).spread(tokens >> 1, tokens, Math.min(rows, tokens >> 1)),
  }));
}

function print(settings: Flags, io: CliIo, { figures, origin }: Results<RecallFigure>): void {
  const mean = (pick: (figure: RecallFigure) => number, of = figures) =>
    of.reduce((sum, figure) => sum + pick(figure), 0) / of.length;
  const layers = [...new Set(figures.map(({ layer }) => layer))];
  const ofLayer = (layer: number) => figures.filter((figure) => figure.layer === layer);
  if (settings.json) io.stdout(`${JSON.stringify({ origin, figures })}\n`);
  else {
    io.stdout("layer  recall    mass  at best\n");
    const line = (name: string, of: readonly RecallFigure[]) =>
      io.stdout(
        `${name.padEnd(5)}  ${mean(({ recall }) => recall, [...of]).toFixed(4)}  ` +
          `${mean(({ mass }) => mass, [...of]).toFixed(4)}   ` +
          `${mean(({ bestMass }) => bestMass, [...of]).toFixed(4)}\n`,
      );
    for (const layer of layers) line(String(layer), ofLayer(layer));
    line("mean", figures);
    io.stdout(`${Object.entries(origin).map(([name, value]) => `${name} ${value}`).join(", ")}\n`);
  }
  if (settings.svg === null) return;
  const curve = (name: string, pick: (figure: RecallFigure) => number) => ({
    name,
    points: layers.map((layer) => [layer, mean(pick, ofLayer(layer))] as const),
  });
  const chart = lineCharts([{
    title:
      `Recall of the true top-${settings.budget}, and attention on the attended rows, by layer`,
    x: { label: "layer", scale: "linear" },
    y: { label: "share", scale: "linear" },
    series: [
      curve("recall", ({ recall }) => recall),
      curve("mass", ({ mass }) => mass),
      curve("mass with the true top", ({ bestMass }) => bestMass),
    ],
  }]);
  Deno.writeTextFileSync(settings.svg, chart);
}

export const command = recallCommand(createEngineParts);
