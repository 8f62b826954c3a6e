/** `eval ruler`: finding what is hidden in long texts. @module */
import { POLICY_NAMES } from "../../../butler/settings.ts";
import { caseName, type PplCase, pplCases } from "../../../eval/ppl.ts";
import { digestOfText } from "../../../eval/digests.ts";
import { Results } from "../../../eval/results.ts";
import {
  fitSample,
  RULER_TASKS,
  type RulerSample,
  type RulerTask,
  stringMatch,
} from "../../../eval/ruler/tasks.ts";
import { defineCommand, MisfitError } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { jobFlags } from "../../job_flags.ts";
import { type OpenSession, openSession } from "../../session.ts";
import { decimal, integer, text, wordList } from "../../values.ts";
import {
  answerOptions,
  type Asked,
  type AskedGroup,
  askMissing,
  PromptWriter,
  scoreOf,
} from "./answers.ts";
import {
  choosePolicies,
  fileName,
  numbers,
  originOf,
  outputFlags,
  policiesFlag,
  rowFlags,
  rowsOf,
  SELECTING,
  subjectFlags,
  tablesOf,
} from "./common.ts";
import { checkOutputs } from "../../outputs.ts";
import { printRuler, type RulerFigure } from "./ruler_report.ts";

const group = "Evaluation";

const flags = jobFlags("eval-ruler", {
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
});

type Flags = Settings<typeof flags>;

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
  checkOutputs({ out: settings.out, svg: settings.svg });
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
      throw new MisfitError(`memory allows ${info.contextLength} tokens: take fewer --tokens`);
    }
    const policies = choosePolicies(settings.policies, SELECTING, info, io);
    const text = settings.text === null ? null : fileName(settings.text);
    const results = new Results<RulerFigure>(settings.out, {
      ...await originOf("ruler", info, settings),
      sinks: settings.sinks,
      window: settings.window,
      samples: settings.samples,
      seed: settings.seed,
      text,
    }, text === null ? {} : { [text]: await digestOfText(essay!) });
    const writer = await PromptWriter.create(session);
    for (const tokens of lengths) {
      const totals = rowsOf("--rows", settings.rows, tokens);
      const cases = pplCases(policies, totals, [1], tablesOf(info));
      const stages = [
        { label: `Dense, ${tokens} tokens`, cases: cases.filter(({ total }) => total === null) },
        { label: `Policies, ${tokens} tokens`, cases: cases.filter(({ total }) => total !== null) },
      ];
      const asked = new Map<RulerTask, readonly Asked[]>();
      const samples = async (task: RulerTask) => {
        const made = asked.get(task) ?? await makeSamples(task, tokens, essay, writer, settings);
        asked.set(task, made);
        return made;
      };
      for (const { label, cases } of stages) {
        const groups = tasks.map((task): AskedGroup => ({
          figures: cases
            .filter(({ total }) => total === null || denseReaches(results, task, tokens, settings))
            .map((of) => figureOf(results, task, tokens, of)),
          count: settings.samples,
          samples: () => samples(task),
        }));
        await askMissing(session, io, groups, {
          label,
          batch: settings.batch,
          rows: settings,
          onAnswer: () => results.save(),
        });
      }
    }
    printRuler(settings, io, results, tasks);
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
        throw new MisfitError(`${task.name}: no sample fits ${tokens} tokens: take more --tokens`);
      }
      const promptIds = await writer.ids(sample.prompt, sample.prefix);
      const maxTokens = answerTokens(sample);
      if (promptIds.length + maxTokens > tokens) continue;
      const score = (text: string) => stringMatch(text, sample.references);
      found.push({ promptIds, maxTokens, score });
      break;
    }
  }
  return found;
}

export const command = rulerCommand(openSession);
