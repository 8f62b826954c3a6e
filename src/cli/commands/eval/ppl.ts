/** `eval ppl`: perplexity under each policy. @module */
import type { KvSettings } from "../../../butler/settings.ts";
import { createEngineParts, type EngineParts } from "../../../engine/create.ts";
import {
  caseName,
  type PplCase,
  pplCases,
  type PplFigure,
  sameCase,
  settingsOfCase,
  timesDense,
} from "../../../eval/ppl.ts";
import { Results } from "../../../eval/results.ts";
import { rowsAreIndependent, RowScorer } from "../../../eval/rows.ts";
import { lineCharts } from "../../../report/chart.ts";
import { defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { timedBar } from "../../progress.ts";
import { integer, text } from "../../values.ts";
import {
  batchFlag,
  choosePolicies,
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
  textFlags,
  type TextWindows,
  writePicture,
} from "./common.ts";
import { POLICY_NAMES } from "../../../butler/settings.ts";

const group = "Evaluation";

const flags = {
  ...textFlags,
  ...policiesFlag("policies to compare with dense attention", POLICY_NAMES),
  totals: valueFlag({
    group,
    help: "rows that a KV head attends to in the mean, sinks and window included",
    placeholder: "N,N",
    schema: text,
    fallback: "64,128,256,512",
  }),
  intervals: valueFlag({
    group,
    help: "steps from one selection to the next, with neighbours above 1",
    placeholder: "N,N",
    schema: text,
    fallback: "1",
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
} as const;

type Flags = Settings<typeof flags>;

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
  const path = modelPath(settings);
  const texts = await readWindows(settings, path);
  const parts = await openParts(settings, open, settings.tokens, settings.batch);
  try {
    const { info } = parts;
    const situation = situationOf(info);
    const hasTable = info.kv.budgetTable !== null;
    const policies = choosePolicies(settings.policies, SELECTING, info, io);
    const rows = { sinks: settings.sinks, window: settings.window };
    const cases = pplCases(policies, totals, intervals, hasTable).map((of) => ({
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
    });
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
  const isOpen = (name: string, of: PplCase) =>
    !results.figures.some((figure) => figure.text === name && sameCase(figure, of));
  const open = texts.map(({ name }) => cases.filter(({ of }) => isOpen(name, of)));
  const total = texts.reduce((sum, { windows }, i) => sum + windows.length * open[i]!.length, 0);
  const bar = timedBar(io, "Measuring", Math.max(1, total));
  let done = 0;
  try {
    for (const [index, { name, windows }] of texts.entries()) {
      const add = (of: PplCase, nll: readonly number[]) =>
        results.add({
          ...of,
          text: name,
          windows: windows.length,
          rows: nll.length,
          nll: nll.reduce((sum, value) => sum + value, 0) / nll.length,
        });
      const apart = open[index]!.filter((entry) => rowsAreIndependent(entry.settings));
      const nll = apart.map((): number[] => []);
      for (const ids of windows) {
        // All of them over one prefill.
        for (const [i, entry] of apart.entries()) {
          const [scores] = await scorer.score([ids], prefilled, entry.settings);
          nll[i]!.push(...scores!);
          bar.update(++done);
        }
      }
      apart.forEach(({ of }, i) => add(of, nll[i]!));
      for (const entry of open[index]!.filter((other) => !apart.includes(other))) {
        const scores = await scorer.score(windows, prefilled, entry.settings);
        add(entry.of, scores.flat());
        bar.update(done += windows.length);
      }
    }
  } finally {
    bar.stop();
  }
}

function print(settings: Flags, io: CliIo, { figures, origin }: Results<PplFigure>): void {
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
