/** `eval ruler`: finding what is hidden in long texts. @module */
import { POLICY_NAMES } from "../../../butler/settings.ts";
import { caseName, type PplCase, pplCases, requestOfCase } from "../../../eval/ppl.ts";
import { Results } from "../../../eval/results.ts";
import {
  fitSample,
  RULER_TASKS,
  type RulerSample,
  type RulerTask,
  stringMatch,
} from "../../../eval/ruler/tasks.ts";
import { lineCharts } from "../../../report/chart.ts";
import { CommandError, defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { timedBar } from "../../progress.ts";
import { type OpenSession, openSession } from "../../session.ts";
import { decimal, integer, text, wordList } from "../../values.ts";
import { answer, answerOptions, PromptWriter, type Question, runAll } from "./answers.ts";
import {
  choosePolicies,
  fileName,
  numbers,
  originLine,
  originOf,
  outputFlags,
  policiesFlag,
  rowFlags,
  rowsOf,
  SELECTING,
  subjectFlags,
  writePicture,
} from "./common.ts";

const group = "Evaluation";

const flags = {
  tasks: valueFlag({
    group,
    help: `tasks: ${RULER_TASKS.map(({ name }) => name).join(", ")}`,
    placeholder: "NAME,NAME",
    schema: wordList(RULER_TASKS.map(({ name }) => name)),
    fallback: RULER_TASKS.map(({ name }) => name),
    fallbackText: "all",
  }),
  tokens: valueFlag({
    group,
    help: "lengths: tokens that a sample has at most, answer included",
    placeholder: "N,N",
    schema: text,
    fallback: "1024",
  }),
  rows: valueFlag({
    group,
    help:
      "rows that a KV head attends to in the mean, sinks and window included: counts, or shares " +
      "of the length",
    placeholder: "N,N",
    schema: text,
    fallback: "0.125",
  }),
  samples: valueFlag({
    group,
    help: "samples of each task and length",
    placeholder: "N",
    schema: integer(1, 2 ** 20 - 1),
    fallback: 24,
  }),
  ...policiesFlag("policies to compare with dense attention", POLICY_NAMES),
  least: valueFlag({
    group,
    help: "share that dense attention has to reach in a task before others are tried on it",
    placeholder: "S",
    schema: decimal(0, 1),
    fallback: 0.6,
  }),
  text: valueFlag({
    group,
    help: "a UTF-8 file with prose to hide things in",
    placeholder: "FILE",
    short: "f",
    schema: text,
    fallback: null,
    fallbackText: "made-up sentences",
  }),
  seed: valueFlag({
    group,
    help: "decides on the samples",
    placeholder: "N",
    schema: integer(0, 2 ** 32 - 1),
    fallback: 0,
  }),
  ...rowFlags,
  batch: valueFlag({
    group,
    help: "samples that are answered together",
    placeholder: "N",
    schema: integer(1, 64),
    fallback: 8,
  }),
  ...outputFlags,
  ...subjectFlags,
} as const;

type Flags = Settings<typeof flags>;

/** What was answered in a case. */
export interface RulerFigure extends PplCase {
  readonly task: string;
  readonly tokens: number;
  /** By sample; null: not asked yet. */
  readonly answers: ({ readonly text: string; readonly score: number } | null)[];
}

/** A sample, ready to be asked. */
interface Asked {
  readonly sample: RulerSample;
  readonly question: Omit<Question, "kv">;
}

/** The command, over a way to open a session. */
export function rulerCommand(open: OpenSession) {
  return defineCommand({
    name: "eval ruler",
    summary: "finding what is hidden in long texts, by policy",
    usage: ["eval ruler [--tasks NAME,NAME] [--tokens N,N] [--rows N,N] [flags]"],
    notes: [
      ...RULER_TASKS.map(({ name, summary }) => `${name.padEnd(16)} ${summary}`),
      "The tasks are those of RULER (arXiv 2404.06654) that need no outside data, in other words. " +
      "Prompts are in the form of a chat where the model has one, prefilled under dense attention; " +
      "the answer is decoded under each policy, the likeliest token at a time, to an end token or to " +
      "twice the length of the right one. The score of an answer is the part of the references that " +
      "it has, whatever the case of letters.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Flags, io: CliIo, open: OpenSession): Promise<number> {
  const lengths = numbers("--tokens", settings.tokens);
  const tasks = RULER_TASKS.filter(({ name }) => settings.tasks.includes(name));
  for (const tokens of lengths) {
    const least = settings.sinks + settings.window;
    if (rowsOf("--rows", settings.rows, tokens).some((rows) => rows < least)) {
      throw new UsageError(
        `--rows must be at least ${least} at ${tokens} tokens: sinks and window`,
      );
    }
  }
  const essay = settings.text === null ? null : readTextFile(settings.text, "--text");
  const session = await open(
    answerOptions(settings, Math.max(...lengths), settings.batch),
    io,
    "chat",
  );
  try {
    const { info } = session.engine;
    const longest = Math.max(...lengths);
    if (info.contextLength < longest) {
      throw new CommandError(`memory allows ${info.contextLength} tokens: take fewer --tokens`);
    }
    const policies = choosePolicies(settings.policies, SELECTING, info, io);
    const results = new Results<RulerFigure>(settings.out, {
      ...await originOf("ruler", info, settings),
      sinks: settings.sinks,
      window: settings.window,
      samples: settings.samples,
      seed: settings.seed,
      text: settings.text === null ? null : fileName(settings.text),
    });
    const writer = await PromptWriter.create(session);
    for (const tokens of lengths) {
      const totals = rowsOf("--rows", settings.rows, tokens);
      const cases = pplCases(policies, totals, [1], info.kv.budgetTable !== null);
      const stages = [
        { label: `Dense, ${tokens} tokens`, cases: cases.filter(({ total }) => total === null) },
        { label: `Policies, ${tokens} tokens`, cases: cases.filter(({ total }) => total !== null) },
      ];
      const asked = new Map<RulerTask, readonly Asked[]>();
      for (const { label, cases } of stages) {
        const jobs: { figure: RulerFigure; index: number; asked: Asked }[] = [];
        for (const task of tasks) {
          const figures = cases
            .filter(({ total }) => total === null || denseReaches(results, task, tokens, settings))
            .map((of) => figureOf(results, task, tokens, of));
          const isOpen = (figure: RulerFigure, index: number) =>
            (figure.answers[index] ?? null) === null;
          const missing = (index: number) => figures.filter((figure) => isOpen(figure, index));
          const indices = Array.from({ length: settings.samples }, (_, index) => index);
          if (indices.every((index) => missing(index).length === 0)) continue;
          const samples = asked.get(task) ??
            await makeSamples(task, tokens, essay, writer, settings);
          asked.set(task, samples);
          // Samples that are answered together are asked again before they make way for others.
          for (let first = 0; first < indices.length; first += settings.batch) {
            const some = indices.slice(first, first + settings.batch);
            for (const figure of figures) {
              for (const index of some.filter((index) => isOpen(figure, index))) {
                jobs.push({ figure, index, asked: samples[index]! });
              }
            }
          }
        }
        if (jobs.length === 0) continue;
        const bar = timedBar(io, label, jobs.length);
        let done = 0;
        try {
          await runAll(jobs, settings.batch, async ({ figure, index, asked }) => {
            const kv = requestOfCase(figure, settings);
            const text = await answer(session, { ...asked.question, kv });
            const score = stringMatch(text, asked.sample.references);
            figure.answers[index] = { text, score };
            results.save();
            bar.update(++done);
          });
        } finally {
          bar.stop();
        }
      }
    }
    print(settings, io, results, tasks);
    return EXIT.ok;
  } finally {
    await session.close();
  }
}

function figureOf(
  results: Results<RulerFigure>,
  task: RulerTask,
  tokens: number,
  of: PplCase,
): RulerFigure {
  const known = results.figures.find((figure) =>
    figure.task === task.name && figure.tokens === tokens && figure.total === of.total &&
    caseName(figure) === caseName(of)
  );
  if (known !== undefined) return known;
  const figure = { task: task.name, tokens, ...of, answers: [] };
  results.figures.push(figure);
  return figure;
}

function denseReaches(
  { figures }: Results<RulerFigure>,
  { name }: RulerTask,
  tokens: number,
  { least }: Flags,
): boolean {
  const dense = figures.find((figure) =>
    figure.task === name && figure.tokens === tokens && figure.total === null
  );
  return dense !== undefined && scoreOf(dense) >= least;
}

async function makeSamples(
  task: RulerTask,
  tokens: number,
  essay: string | null,
  writer: PromptWriter,
  { seed, samples }: Flags,
): Promise<Asked[]> {
  // The answer may take twice its length.
  const answerTokens = ({ references }: RulerSample) =>
    2 * writer.count(` ${references.join(", ")}`);
  const count = (sample: RulerSample) =>
    writer.overhead + writer.count(sample.prompt) + writer.count(sample.prefix) +
    answerTokens(sample);
  const found: Asked[] = [];
  for (let index = 0; index < samples; index++) {
    // Where pieces meet, tokens may come out otherwise than counted.
    for (let room = tokens - 2;; room -= 4) {
      const sample = fitSample(task, { seed, index, essay, tokens }, room, count);
      if (sample === null) {
        throw new CommandError(`${task.name}: no sample fits ${tokens} tokens: take more --tokens`);
      }
      const promptIds = await writer.ids(sample.prompt, sample.prefix);
      const maxTokens = answerTokens(sample);
      if (promptIds.length + maxTokens > tokens) continue;
      found.push({ sample, question: { promptIds, maxTokens } });
      break;
    }
  }
  return found;
}

/** Mean score; 0 without answers. */
function scoreOf({ answers }: RulerFigure): number {
  const scores = answers.flatMap((each) => each === null ? [] : [each.score]);
  return scores.reduce((sum, score) => sum + score, 0) / Math.max(1, scores.length);
}

function exactOf({ answers }: RulerFigure): number {
  return answers.filter((each) => each?.score === 1).length;
}

function print(
  settings: Flags,
  io: CliIo,
  { figures, origin }: Results<RulerFigure>,
  tasks: readonly RulerTask[],
): void {
  if (settings.json) {
    const lines = figures.map((figure) => ({
      ...figure,
      score: scoreOf(figure),
      exact: exactOf(figure),
    }));
    io.stdout(`${JSON.stringify({ origin, figures: lines })}\n`);
  } else {
    const lengths = [...new Set(figures.map(({ tokens }) => tokens))];
    for (const tokens of lengths) {
      const here = figures.filter((figure) => figure.tokens === tokens);
      const dense = here.filter(({ total }) => total === null);
      const totals = [...new Set(here.flatMap(({ total }) => total ?? []))];
      io.stdout(`${tokens} tokens: score (exact answers of ${settings.samples})\n`);
      for (const total of totals.length === 0 ? [null] : totals) {
        const sparse = here.filter((figure) => figure.total === total && total !== null);
        const names = [...new Set(sparse.map(caseName))];
        const columns = [
          "dense",
          ...names.map((name) => name.replace(" (same B for all heads)", ", same B")),
        ];
        const width = Math.max(12, ...columns.map((column) => column.length + 2));
        const row = (name: string, cells: readonly string[]) =>
          io.stdout(`  ${name.padEnd(16)}${cells.map((text) => text.padStart(width)).join("")}\n`);
        row(total === null ? "" : `${total} rows`, columns);
        const cell = (figure: RulerFigure | undefined) =>
          figure === undefined || figure.answers.length === 0
            ? "-"
            : `${(100 * scoreOf(figure)).toFixed(1)} (${exactOf(figure)})`;
        const compared: string[] = [];
        for (const { name } of tasks) {
          const own = sparse.filter(({ task, answers }) => task === name && answers.length > 0);
          if (own.length > 0) compared.push(name);
          row(name, [
            cell(dense.find(({ task }) => task === name)),
            ...names.map((of) => cell(own.find((figure) => caseName(figure) === of))),
          ]);
        }
        const together = (of: readonly RulerFigure[]) => {
          const counted = of.filter(({ task }) => compared.includes(task));
          const score = counted.reduce((sum, figure) => sum + scoreOf(figure), 0) /
            Math.max(1, counted.length);
          const exact = counted.reduce((sum, figure) => sum + exactOf(figure), 0);
          return `${(100 * score).toFixed(1)} (${exact})`;
        };
        if (compared.length > 0) {
          row(`${compared.length} compared`, [
            together(dense),
            ...names.map((of) => together(sparse.filter((figure) => caseName(figure) === of))),
          ]);
        }
      }
    }
    io.stdout(originLine(origin));
  }
  if (settings.svg !== null) writePicture(settings.svg, picture(figures));
}

function picture(figures: readonly RulerFigure[]): string {
  const lengths = [...new Set(figures.map(({ tokens }) => tokens))];
  return lineCharts(
    lengths.map((tokens) => {
      const here = figures.filter((figure) => figure.tokens === tokens && figure.total !== null);
      const names = [...new Set(here.map(caseName))];
      return {
        title: `Score of the tasks that dense attention can do, ${tokens} tokens`,
        x: { label: "rows, sinks and window included", scale: "log2" as const },
        y: { label: "score", scale: "linear" as const },
        series: names.map((name) => {
          const own = here.filter((figure) =>
            caseName(figure) === name && figure.answers.length > 0
          );
          const totals = [...new Set(own.map(({ total }) => total!))].sort((a, b) => a - b);
          return {
            name,
            points: totals.map((total) => {
              const some = own.filter((figure) => figure.total === total);
              const sum = some.reduce((score, figure) => score + scoreOf(figure), 0);
              return [total, sum / some.length] as const;
            }),
          };
        }),
      };
    }).filter(({ series }) => series.some(({ points }) => points.length > 0)),
  );
}

export const command = rulerCommand(openSession);
