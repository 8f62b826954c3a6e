/** `eval ppl`: perplexity under each policy. @module */
import type { KvSettings } from "../../../butler/settings.ts";
import { createEngineParts, type EngineParts } from "../../../engine/create.ts";
import {
  caseName,
  isWhole,
  type PplCase,
  pplCases,
  type PplFigure,
  sameCase,
  settingsOfCase,
  timesDense,
  withWindow,
} from "../../../eval/ppl.ts";
import { Results } from "../../../eval/results.ts";
import { rowsAreIndependent, RowScorer } from "../../../eval/rows.ts";
import { lineCharts } from "../../../report/chart.ts";
import { defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { jobFlags } from "../../job_flags.ts";
import { timedBar } from "../../progress.ts";
import { integer, oneOf, text } from "../../values.ts";
import {
  batchFlag,
  choosePolicies,
  digestsOf,
  numbers,
  type OpenParts,
  openParts,
  originLine,
  originOf,
  outputFlags,
  policiesFlag,
  readWindows,
  rowFlags,
  SELECTING,
  settingsFor,
  situationOf,
  subjectFlags,
  tablesOf,
  textFlags,
  type TextWindows,
} from "./common.ts";
import { checkOutputs, writePicture } from "../../outputs.ts";
import { POLICY_NAMES } from "../../../butler/settings.ts";

const group = "Evaluation";

const flags = jobFlags("eval-ppl", {
  ...textFlags,
  ...policiesFlag("policies to compare with dense attention", POLICY_NAMES),
  totals: valueFlag({
    group,
    help:
      "rows that a KV head attends to in the mean, sinks and window included, without neighbours",
    placeholder: "N,N",
    schema: text,
    fallback: "64,128,256,512",
  }),
  intervals: valueFlag({
    group,
    help:
      "steps from one selection to the next; above 1 chosen rows bring as many neighbours, and the " +
      "window grows until the next one",
    placeholder: "N,N",
    schema: text,
    fallback: "1",
  }),
  budgets: valueFlag({
    group,
    help:
      "budgets of tokenbutler's heads: table, those of the predictor; same, one for all; or both",
    placeholder: "WHICH",
    schema: oneOf(["both", "table", "same"]),
    fallback: "both" as const,
  }),
  windows: valueFlag({
    group,
    help: "windows of each text",
    placeholder: "N",
    schema: integer(1, 1e6),
    fallback: 4,
  }),
  tokens: valueFlag({
    group,
    help: "tokens of a window: the first half is prefilled, the rest is scored row by row",
    placeholder: "N",
    schema: integer(16, 2 ** 20),
    fallback: 2048,
  }),
  ...rowFlags,
  ...batchFlag,
  ...outputFlags,
  ...subjectFlags,
});

type Flags = Settings<typeof flags>;

/** Windows that are scored together where rows are not. */
const TOGETHER = 8;

/** The command, over a way to make an engine in this isolate. */
export function pplCommand(open: OpenParts) {
  return defineCommand({
    name: "eval ppl",
    summary: "perplexity of a text by policy and rows, as a multiple of dense attention's",
    usage: ["eval ppl --text FILE [--text FILE ...] [flags]"],
    notes: [
      "The first half of each window is prefilled under dense attention, once for all policies that " +
      "choose by the keys alone. All policies have the same number of rows; each spends them by its " +
      "own rule (quest: pages of 16, no sinks or window of its own; streaming: sinks and window).",
      "tokenbutler is measured with the predictor's table of budgets, and with the same B for all " +
      "heads.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  const totals = numbers("--totals", settings.totals);
  const intervals = numbers("--intervals", settings.intervals);
  const least = settings.sinks + settings.window;
  if (totals.some((total) => total < least)) {
    throw new UsageError(`--totals must be at least ${least}, the sinks and the window`);
  }
  checkOutputs({ out: settings.out, svg: settings.svg });
  const path = modelPath(settings);
  const texts = await readWindows(settings, path);
  const parts = await openParts(settings, open, settings.tokens, settings.batch, io);
  try {
    const { info } = parts;
    const situation = situationOf(info);
    const tables = tablesOf(info, settings.budgets);
    const policies = choosePolicies(settings.policies, SELECTING, info, io);
    const rows = { sinks: settings.sinks, window: settings.window };
    const cases = pplCases(policies, totals, intervals, tables).map((of) => ({
      of,
      settings: settingsFor(
        of.policy,
        () => settingsOfCase(of, rows, info.model, situation),
      ),
    }));
    const results = new Results<PplFigure>(settings.out, {
      ...await originOf("ppl", info, settings),
      context: settings.tokens,
      sinks: settings.sinks,
      window: settings.window,
      part: settings.part,
      windows: settings.windows,
    }, digestsOf(texts));
    await measure(parts, settings, io, texts, cases, results);
    print(settings, io, results);
    return EXIT.ok;
  } finally {
    parts.dispose();
  }
}

async function measure(
  parts: EngineParts,
  settings: Flags,
  io: CliIo,
  texts: readonly TextWindows[],
  cases: readonly { of: PplCase; settings: KvSettings }[],
  results: Results<PplFigure>,
): Promise<void> {
  const prefilled = settings.tokens >> 1;
  const scorer = new RowScorer(parts, settings.tokens);
  const placeOf = (text: string, of: PplCase) =>
    results.figures.findIndex((figure) => figure.text === text && sameCase(figure, of));
  const scored = (text: string, of: PplCase) =>
    results.figures[placeOf(text, of)]?.nlls.length ?? 0;
  const left = texts.flatMap(({ name, windows }) =>
    cases.map(({ of }) => windows.length - scored(name, of))
  );
  const bar = timedBar(io, "Measuring", Math.max(1, left.reduce((sum, count) => sum + count, 0)));
  let done = 0;
  /** Keeps what some windows, which are next in their case, came to. */
  const keep = (text: TextWindows, of: PplCase, scores: readonly (readonly number[])[]) => {
    const empty = { ...of, text: text.name, windows: text.windows.length, nlls: [] };
    const place = placeOf(text.name, of);
    const known = results.figures[place] ?? { ...empty, rows: 0, nll: 0 };
    const figure = scores.reduce(withWindow, known);
    if (place < 0) results.figures.push(figure);
    else results.figures[place] = figure;
    results.save();
    bar.update(done += scores.length);
  };
  try {
    for (const text of texts) {
      const { name, windows } = text;
      const apart = cases.filter((entry) => rowsAreIndependent(entry.settings));
      for (const [index, ids] of windows.entries()) {
        // All of them over one prefill.
        for (const entry of apart.filter(({ of }) => scored(name, of) <= index)) {
          keep(text, entry.of, await scorer.score([ids], prefilled, entry.settings));
        }
      }
      for (const entry of cases.filter((other) => !apart.includes(other))) {
        while (scored(name, entry.of) < windows.length) {
          const first = scored(name, entry.of);
          const some = windows.slice(first, first + TOGETHER);
          keep(text, entry.of, await scorer.score(some, prefilled, entry.settings));
        }
      }
    }
  } finally {
    bar.stop();
  }
}

function print(settings: Flags, io: CliIo, results: Results<PplFigure>): void {
  const { origin } = results;
  // An earlier run may have been ended in the middle of what this one did not ask for.
  const figures = results.figures.filter(isWhole);
  if (settings.json) io.stdout(`${JSON.stringify({ origin, figures })}\n`);
  else {
    for (const name of new Set(figures.map(({ text }) => text))) {
      const of = figures.filter(({ text }) => text === name);
      const dense = of.find(({ policy }) => policy === "dense");
      io.stdout(
        `${name}: ${of[0]!.windows} windows, ${of[0]!.rows} rows; perplexity of dense attention ` +
          `${dense === undefined ? "unknown" : Math.exp(dense.nll).toFixed(3)}; multiples of it:\n`,
      );
      const totals = [...new Set(of.flatMap(({ total }) => total ?? []))].sort((a, b) => a - b);
      const names = [...new Set(of.filter(({ total }) => total !== null).map(caseName))];
      const width = Math.max(...names.map((text) => text.length), 8);
      io.stdout(
        `  ${"rows".padEnd(width)} ${totals.map((total) => String(total).padStart(8)).join("")}\n`,
      );
      for (const line of names) {
        const cells = totals.map((total) => {
          const figure = of.find((one) => one.total === total && caseName(one) === line);
          const times = figure === undefined ? null : timesDense(figure, figures);
          return (times === null ? "-" : times.toFixed(4)).padStart(8);
        });
        io.stdout(`  ${line.padEnd(width)} ${cells.join("")}\n`);
      }
    }
    io.stdout(originLine(origin));
  }
  if (settings.svg !== null) writePicture(settings.svg, picture(figures));
}

function picture(figures: readonly PplFigure[]): string {
  const texts = [...new Set(figures.map(({ text }) => text))];
  return lineCharts(texts.map((name) => {
    const of = figures.filter(({ text, total }) => text === name && total !== null);
    const names = [...new Set(of.map(caseName))];
    return {
      title: `Perplexity over that of dense attention: ${name}`,
      x: { label: "rows, sinks and window included", scale: "log2" },
      y: { label: "times dense", scale: "log10", format: (value: number) => value.toFixed(2) },
      series: names.map((line) => ({
        name: line,
        points: of.filter((figure) => caseName(figure) === line)
          .map((figure) => [figure.total!, timesDense(figure, figures)!] as const)
          .sort(([a], [b]) => a - b),
      })),
    };
  }));
}

export const command = pplCommand(createEngineParts);
