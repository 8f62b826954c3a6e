/** `eval recall`: which rows each policy attends to, beside the truly best ones. @module */
import type { KvSettings } from "../../../butler/settings.ts";
import { createEngineParts, type EngineParts } from "../../../engine/create.ts";
import { caseName, type PplCase, pplCases, settingsOfCase } from "../../../eval/ppl.ts";
import {
  headShare,
  type HeadTruth,
  headTruth,
  type LayerRecall,
  overallRecall,
  RecallMeans,
  type TruthRows,
} from "../../../eval/recall.ts";
import { Results } from "../../../eval/results.ts";
import { RowScorer } from "../../../eval/rows.ts";
import { SelectionReader, type SelectionShape } from "../../../eval/selections.ts";
import { MOST_KEY_ROWS, openKeys, readKeys } from "../../../butler/calibration/read_keys.ts";
import { openModel } from "../../../model/open.ts";
import { lineCharts } from "../../../report/chart.ts";
import { defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { jobFlags } from "../../job_flags.ts";
import { timedBar } from "../../progress.ts";
import { integer } from "../../values.ts";
import {
  batchFlag,
  choosePolicies,
  digestsOf,
  type OpenParts,
  openParts,
  originLine,
  originOf,
  outputFlags,
  policiesFlag,
  readWindows,
  rowFlags,
  settingsFor,
  situationOf,
  subjectFlags,
  tablesOf,
  textFlags,
} from "./common.ts";
import { checkOutputs, writePicture } from "../../outputs.ts";

const group = "Evaluation";

/** Policies that choose by the keys alone: what the others choose depends on what they attended to. */
const MEASURED = ["oracle", "quest", "streaming", "loki", "tokenbutler"] as const;

const flags = jobFlags("eval-recall", {
  ...textFlags,
  ...policiesFlag("policies to measure; those that choose by the keys alone", MEASURED),
  budget: valueFlag({
    group,
    help: "B: rows of a KV head beside sinks and window, and of the true best ones",
    placeholder: "N",
    schema: integer(1, 65_536),
    fallback: 64,
  }),
  windows: valueFlag({
    group,
    help: "windows of each text",
    placeholder: "N",
    schema: integer(1, 1e6),
    fallback: 8,
  }),
  tokens: valueFlag({
    group,
    help: "tokens of a window; rows of its second half are measured",
    placeholder: "N",
    schema: integer(16, 2 ** 17),
    fallback: 1024,
  }),
  rows: valueFlag({
    group,
    help: "rows of a window that are measured, evenly spaced",
    placeholder: "N",
    schema: integer(1, 2 ** 16),
    fallback: 128,
  }),
  ...rowFlags,
  ...batchFlag,
  ...outputFlags,
  ...subjectFlags,
});

type Flags = Settings<typeof flags>;

/** What was measured of a policy over the windows of a text. */
export interface RecallFigure extends PplCase {
  readonly text: string;
  readonly windows: number;
  readonly rows: number;
  /** Means over KV heads and the layers after the first in which rows are selected. */
  readonly recall: number;
  readonly mass: number;
  /** Mass with the true top-B. */
  readonly best: number;
  readonly layers: readonly LayerRecall[];
}

/** The command, over a way to make an engine in this isolate. */
export function recallCommand(open: OpenParts) {
  return defineCommand({
    name: "eval recall",
    summary: "recall of the truly best rows, and attention on the attended ones, by layer and head",
    usage: ["eval recall --text FILE [--text FILE ...] [flags]"],
    notes: [
      "Every row attends to everything, and each policy selects beside that, so that all of them " +
      "select for the same queries and keys. recall: part of the true top-B that a policy attends " +
      "to, where the true top-B of a KV head are the rows between sinks and window with the largest " +
      "q.k of its query heads. mass: part of the exact attention on the attended rows, the mean over " +
      "those heads; best: the same with the true top-B.",
      "Means are over rows, KV heads and the layers after the first in which a policy selects. " +
      "tokenbutler with its table has B in the mean over heads; the true top-B are the same for all.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

interface Case {
  readonly of: PplCase;
  readonly settings: KvSettings;
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  const { sinks, window, budget, tokens } = settings;
  const total = sinks + window + budget;
  if (tokens >> 1 < total) {
    throw new UsageError(
      `--tokens must be at least ${2 * total}, so that there is something to choose from`,
    );
  }
  checkOutputs({ out: settings.out, svg: settings.svg });
  const path = modelPath(settings);
  const texts = await readWindows(settings, path);
  const source = await openModel(path);
  source.close();
  const parts = await openParts(settings, open, tokens, settings.batch, io);
  try {
    const { info } = parts;
    const policies = choosePolicies(settings.policies, MEASURED, info, io);
    const situation = situationOf(info);
    const cases = pplCases(policies, [total], [1], tablesOf(info))
      .filter((of) => of.total !== null)
      .map((of): Case => ({
        of,
        settings: settingsFor(
          of.policy,
          () => settingsOfCase(of, { sinks, window }, info.model, situation),
        ),
      }));
    const results = new Results<RecallFigure>(settings.out, {
      ...await originOf("recall", info, settings),
      context: tokens,
      sinks,
      window,
      budget,
      part: settings.part,
      windows: settings.windows,
      rows: settings.rows,
    }, digestsOf(texts));
    const isOpen = (name: string, of: PplCase) =>
      !results.figures.some((figure) => figure.text === name && caseName(figure) === caseName(of));
    const todo = texts.map((text) => ({
      text,
      cases: cases.filter(({ of }) => isOpen(text.name, of)),
    })).filter((each) => each.cases.length > 0);
    const bar = timedBar(
      io,
      "Measuring",
      Math.max(1, todo.reduce((sum, { text }) => sum + text.windows.length, 0)),
    );
    let done = 0;
    try {
      using reader = new SelectionReader(parts, source.config);
      const meter = new WindowMeter(parts, source.config, reader, settings);
      for (const { text, cases } of todo) {
        const means = cases.map(() => meter.newMeans());
        for (const ids of text.windows) {
          await meter.measure(ids, cases, means);
          bar.update(++done);
        }
        cases.forEach(({ of }, index) => {
          const layers = means[index]!.layers();
          results.add({
            ...of,
            text: text.name,
            windows: text.windows.length,
            rows: means[index]!.rows,
            ...overallRecall(layers),
            layers,
          });
        });
      }
    } finally {
      bar.stop();
    }
    print(settings, io, results);
    return EXIT.ok;
  } finally {
    parts.dispose();
  }
}

/** Measures windows. */
class WindowMeter {
  readonly #parts: EngineParts;
  readonly #shape: SelectionShape;
  readonly #reader: SelectionReader;
  readonly #settings: TruthRows & { readonly tokens: number; readonly rows: number };
  readonly #scorer: RowScorer;

  constructor(
    parts: EngineParts,
    shape: SelectionShape,
    reader: SelectionReader,
    settings: TruthRows & { readonly tokens: number; readonly rows: number },
  ) {
    this.#parts = parts;
    this.#shape = shape;
    this.#reader = reader;
    this.#settings = settings;
    this.#scorer = new RowScorer(parts, settings.tokens);
  }

  newMeans(): RecallMeans {
    return new RecallMeans(this.#shape.numLayers, this.#shape.numKvHeads);
  }

  async measure(
    ids: readonly number[],
    cases: readonly Case[],
    means: readonly RecallMeans[],
  ): Promise<void> {
    const { numLayers, numKvHeads, numHeads, headDim } = this.#shape;
    const positions = measuredRows(ids.length, this.#settings.rows);
    const group = numHeads / numKvHeads;
    // (layers, rows, KV heads): the queries are the same under every policy.
    const truths: (HeadTruth | null)[][][] = Array.from({ length: numLayers }, () => []);
    for (const [index, { settings }] of cases.entries()) {
      let seen = 0;
      await this.#scorer.visit(ids, positions, settings, async (rows) => {
        for (let layer = 0; layer < numLayers; layer++) {
          if (index === 0) {
            const keys = await this.#keys(layer, ids.length);
            const queries = await this.#reader.queries(layer, rows.length);
            for (const [row, { position }] of rows.entries()) {
              truths[layer]!.push(Array.from({ length: numKvHeads }, (_, head) => {
                const at = (row * numHeads + head * group) * headDim;
                const own = queries.subarray(at, at + group * headDim);
                return headTruth(own, keys[head]!, headDim, position + 1, this.#settings);
              }));
            }
          }
          const attended = await this.#reader.attended(layer, rows);
          attended.forEach((of, row) =>
            truths[layer]![seen + row]!.forEach((truth, head) => {
              if (truth === null) return;
              const share = headShare(truth, of, head);
              means[index]!.add(layer, head, share, truth.bestMass, of === null);
            })
          );
        }
        seen += rows.length;
      });
    }
  }

  /** (KV heads) keys of all rows. */
  async #keys(layer: number, count: number): Promise<Float32Array[]> {
    const { numKvHeads, headDim } = this.#shape;
    using source = await openKeys(this.#parts, this.#shape);
    const heads = Array.from({ length: numKvHeads }, () => new Float32Array(count * headDim));
    for (let first = 0; first < count; first += MOST_KEY_ROWS) {
      const rows = Math.min(MOST_KEY_ROWS, count - first);
      const values = await readKeys(source, 0, layer, first, rows);
      heads.forEach((keys, head) =>
        keys.set(
          values.subarray(head * rows * headDim, (head + 1) * rows * headDim),
          first * headDim,
        )
      );
    }
    return heads;
  }
}

/** Positions in the second half of a window, evenly spaced. */
function measuredRows(tokens: number, rows: number): number[] {
  const first = tokens >> 1;
  const count = Math.min(rows, tokens - first);
  return Array.from(
    { length: count },
    (_, i) => first + Math.floor((i + 0.5) * (tokens - first) / count),
  );
}

function print(settings: Flags, io: CliIo, { figures, origin }: Results<RecallFigure>): void {
  if (settings.json) io.stdout(`${JSON.stringify({ origin, figures })}\n`);
  else {
    const width = Math.max(8, ...figures.map((figure) => caseName(figure).length));
    for (const name of new Set(figures.map(({ text }) => text))) {
      const of = figures.filter(({ text }) => text === name);
      io.stdout(`${name}: ${of[0]!.windows} windows, ${of[0]!.rows} rows\n`);
      io.stdout(`  ${"".padEnd(width)} ${["recall", "mass", "best"].map(cell).join("")}\n`);
      for (const figure of of) {
        const values = [figure.recall, figure.mass, figure.best].map((value) => value.toFixed(4));
        io.stdout(`  ${caseName(figure).padEnd(width)} ${values.map(cell).join("")}\n`);
      }
    }
    io.stdout(originLine(origin));
  }
  if (settings.svg !== null) writePicture(settings.svg, picture(figures));
}

function cell(text: string): string {
  return text.padStart(8);
}

function picture(figures: readonly RecallFigure[]): string {
  const texts = [...new Set(figures.map(({ text }) => text))];
  const mean = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const chart = (name: string, title: string, pick: (layer: LayerRecall) => readonly number[]) => ({
    title: `${title}: ${name}`,
    x: { label: "layer", scale: "linear" as const },
    y: { label: "share", scale: "linear" as const },
    series: figures.filter(({ text }) => text === name).map((figure) => ({
      name: caseName(figure),
      points: figure.layers.map((layer, index) => [index, mean(pick(layer))] as const),
    })),
  });
  return lineCharts(texts.flatMap((name) => [
    chart(name, "Recall of the true top-B", ({ recall }) => recall),
    chart(name, "Attention on the attended rows", ({ mass }) => mass),
  ]));
}

export const command = recallCommand(createEngineParts);
