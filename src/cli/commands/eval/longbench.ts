/** `eval longbench`: the English data sets of LongBench, for whoever has them. @module */
import { POLICY_NAMES } from "../../../butler/settings.ts";
import {
  type Dataset,
  DATASETS,
  type DatasetSample,
  middleCut,
  promptOf,
  scoreAnswer,
} from "../../../eval/longbench/datasets.ts";
import { caseName, type PplCase, pplCases } from "../../../eval/ppl.ts";
import { digestOfText } from "../../../eval/digests.ts";
import { Results } from "../../../eval/results.ts";
import { lineCharts } from "../../../report/chart.ts";
import { z } from "zod";
import { defineCommand, MisfitError } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { jobFlags } from "../../job_flags.ts";
import { type OpenSession, openSession } from "../../session.ts";
import { integer, text, wordList } from "../../values.ts";
import {
  type AnswerFigure,
  answerOptions,
  type Asked,
  type AskedGroup,
  askMissing,
  isAsked,
  PromptWriter,
  scoreOf,
} from "./answers.ts";
import {
  choosePolicies,
  originLine,
  originOf,
  outputFlags,
  policiesFlag,
  rowFlags,
  rowsOf,
  SELECTING,
  subjectFlags,
  tablesOf,
} from "./common.ts";
import { checkOutputs, writePicture } from "../../outputs.ts";

const group = "Evaluation";

const flags = jobFlags("eval-longbench", {
  data: valueFlag({
    group,
    help: "folder with the data sets' files, NAME.jsonl",
    placeholder: "DIR",
    schema: text,
    fallback: null,
  }),
  datasets: valueFlag({
    group,
    help: `data sets: ${DATASETS.map(({ name }) => name).join(", ")}`,
    placeholder: "NAME,NAME",
    schema: wordList(DATASETS.map(({ name }) => name)),
    fallback: null,
    fallbackText: "all whose files are there",
  }),
  samples: valueFlag({
    group,
    help: "samples of each data set, from its beginning",
    placeholder: "N",
    schema: integer(1, 1e6),
    fallback: null,
    fallbackText: "all",
  }),
  tokens: valueFlag({
    group,
    help: "tokens that a sample has at most, answer included: what is too long loses its middle",
    placeholder: "N",
    schema: integer(1024, 2 ** 24),
    fallback: 8192,
  }),
  rows: valueFlag({
    group,
    help:
      "rows that a KV head attends to in the mean, sinks and window included: counts, or shares " +
      "of --tokens",
    placeholder: "N,N",
    schema: text,
    fallback: "0.125",
  }),
  ...policiesFlag("policies to compare with dense attention", POLICY_NAMES),
  ...rowFlags,
  batch: valueFlag({
    group,
    help: "samples that are answered together",
    placeholder: "N",
    schema: integer(1, 64),
    fallback: 4,
  }),
  ...outputFlags,
  ...subjectFlags,
});

type Flags = Settings<typeof flags>;

/** What was answered in a case. */
export interface LongbenchFigure extends AnswerFigure {
  readonly dataset: string;
}

interface Loaded {
  readonly dataset: Dataset;
  /** Of its file. */
  readonly digest: string;
  readonly samples: readonly DatasetSample[];
}

/** The command, over a way to open a session. */
export function longbenchCommand(open: OpenSession) {
  return defineCommand({
    name: "eval longbench",
    summary: "the English data sets of LongBench, by policy, for whoever has them",
    usage: ["eval longbench --data DIR [--datasets NAME,NAME] [flags]"],
    notes: [
      "Scores are those of LongBench (arXiv 2308.14508), 100 at most, the mean over samples and the " +
      "best of several right answers; prompts are in other words, so that scores are to be compared " +
      "with each other and not with published ones. Prompts are prefilled under dense attention, " +
      "answers decoded under each policy, the likeliest token at a time.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Flags, io: CliIo, open: OpenSession): Promise<number> {
  if (settings.data === null) {
    throw new UsageError("--data is needed: a folder with NAME.jsonl files");
  }
  const totals = rowsOf("--rows", settings.rows, settings.tokens);
  const least = settings.sinks + settings.window;
  if (totals.some((rows) => rows < least)) {
    throw new UsageError(`--rows must be at least ${least}, the sinks and the window`);
  }
  checkOutputs({ out: settings.out, svg: settings.svg });
  const loaded = await loadAll(settings.data, settings);
  const session = await open(
    answerOptions(settings, settings.tokens, settings.batch),
    io,
    "chat",
  );
  try {
    const { info } = session.engine;
    if (info.contextLength < settings.tokens) {
      throw new MisfitError(`memory allows ${info.contextLength} tokens: take fewer --tokens`);
    }
    const policies = choosePolicies(settings.policies, SELECTING, info, io);
    const results = new Results<LongbenchFigure>(settings.out, {
      ...await originOf("longbench", info, settings),
      context: settings.tokens,
      sinks: settings.sinks,
      window: settings.window,
      samples: settings.samples,
    }, Object.fromEntries(loaded.map(({ dataset, digest }) => [dataset.name, digest])));
    const writer = await PromptWriter.create(session);
    const cases = pplCases(policies, totals, [1], tablesOf(info));
    const groups = loaded.map(({ dataset, samples }): AskedGroup => ({
      figures: cases.map((of) => figureOf(results, dataset, of)),
      count: samples.length,
      samples: () => askedOf(dataset, samples, writer, settings.tokens),
    }));
    await askMissing(session, io, groups, {
      label: "Answering",
      batch: settings.batch,
      rows: settings,
      onAnswer: () => results.save(),
    });
    print(settings, io, results, loaded);
    return EXIT.ok;
  } finally {
    await session.close();
  }
}

const sampleSchema = z.object({
  input: z.string(),
  context: z.string(),
  answers: z.array(z.string()),
  all_classes: z.array(z.string()).nullable().default(null),
});

async function loadAll(folder: string, { datasets, samples }: Flags): Promise<Loaded[]> {
  const found: Loaded[] = [];
  for (const dataset of DATASETS.filter(({ name }) => datasets?.includes(name) ?? true)) {
    const path = `${folder.replace(/[/\\]+$/, "")}/${dataset.name}.jsonl`;
    if (datasets === null && !isFile(path)) continue;
    const text = readTextFile(path, "--data");
    const parsed = text.split("\n").flatMap((line, index) =>
      line.trim() === "" ? [] : [parseSample(path, index + 1, line)]
    );
    if (parsed.length === 0) throw new MisfitError(`--data: ${path} has no samples`);
    const digest = await digestOfText(text);
    found.push({ dataset, digest, samples: parsed.slice(0, samples ?? parsed.length) });
  }
  if (found.length > 0) return found;
  throw new MisfitError(
    `--data: ${folder} has no file of a known data set, such as ${DATASETS[0]!.name}.jsonl`,
  );
}

function parseSample(path: string, line: number, text: string): DatasetSample {
  try {
    return sampleSchema.parse(JSON.parse(text));
  } catch {
    throw new MisfitError(
      `--data: line ${line} of ${path} is no sample: wanted JSON with input, context and answers`,
    );
  }
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

async function askedOf(
  dataset: Dataset,
  samples: readonly DatasetSample[],
  writer: PromptWriter,
  tokens: number,
): Promise<Asked[]> {
  const { maxTokens, continues } = dataset;
  const asked: Asked[] = [];
  for (const sample of samples) {
    const whole = promptOf(dataset, sample);
    const ids = writer.plainIds(whole);
    const most = tokens - maxTokens - (continues === true ? 0 : writer.overhead);
    const score = (answer: string) => scoreAnswer(dataset, sample, answer);
    const write = async (room: number) => {
      const kept = middleCut(ids, room);
      if (continues === true) return [...kept];
      return await writer.ids(kept === ids ? whole : writer.textOf(kept), "");
    };
    let room = most;
    let promptIds = await write(room);
    // Text that was put together anew may have other tokens.
    while (promptIds.length + maxTokens > tokens) promptIds = await write(room -= 8);
    asked.push({ promptIds, maxTokens, score });
  }
  return asked;
}

function figureOf(
  results: Results<LongbenchFigure>,
  { name }: Dataset,
  of: PplCase,
): LongbenchFigure {
  const known = results.figures.find((figure) =>
    figure.dataset === name && figure.total === of.total && caseName(figure) === caseName(of)
  );
  if (known !== undefined) return known;
  const figure = { dataset: name, ...of, answers: [] };
  results.figures.push(figure);
  return figure;
}

function print(
  settings: Flags,
  io: CliIo,
  { figures, origin }: Results<LongbenchFigure>,
  loaded: readonly Loaded[],
): void {
  if (settings.json) {
    // What an earlier run did not come to the end of is not told.
    const lines = figures.filter((figure) => isWhole(figure, loaded))
      .map((figure) => ({ ...figure, score: scoreOf(figure) }));
    io.stdout(`${JSON.stringify({ origin, figures: lines })}\n`);
  } else {
    const nameOf = (figure: PplCase) =>
      figure.total === null ? "dense" : `${caseName(figure)}, ${figure.total} rows`;
    const columns = [...new Set(figures.map(nameOf))];
    io.stdout(`Scores, 100 at most:\n`);
    // Cases one under the other: there are more of them than data sets would leave room for.
    for (const { dataset, samples } of loaded) {
      io.stdout(`${dataset.name}, ${samples.length} samples\n`);
      for (const column of columns) {
        const figure = figures.find((of) => of.dataset === dataset.name && nameOf(of) === column);
        const score = figure === undefined || !isAsked(figure, samples.length)
          ? "-"
          : (100 * scoreOf(figure)).toFixed(1);
        io.stdout(`  ${column.padEnd(44)}${score.padStart(7)}\n`);
      }
    }
    io.stdout(originLine(origin));
  }
  if (settings.svg !== null) writePicture(settings.svg, picture(figures, loaded));
}

/** Whether all samples of a data set that was loaded were asked. */
function isWhole(figure: LongbenchFigure, loaded: readonly Loaded[]): boolean {
  const of = loaded.find(({ dataset }) => dataset.name === figure.dataset);
  return of !== undefined && isAsked(figure, of.samples.length);
}

function picture(figures: readonly LongbenchFigure[], loaded: readonly Loaded[]): string {
  return lineCharts(loaded.map(({ dataset, samples }) => {
    const own = figures.filter((figure) =>
      figure.dataset === dataset.name && figure.total !== null && isAsked(figure, samples.length)
    );
    return {
      title: `Score of ${dataset.name}`,
      x: { label: "rows, sinks and window included", scale: "log2" as const },
      y: { label: "score", scale: "linear" as const },
      series: [...new Set(own.map(caseName))].map((name) => ({
        name,
        points: own.filter((figure) => caseName(figure) === name)
          .map((figure) => [figure.total!, 100 * scoreOf(figure)] as const)
          .sort(([a], [b]) => a - b),
      })),
    };
  }));
}

export const command = longbenchCommand(openSession);
