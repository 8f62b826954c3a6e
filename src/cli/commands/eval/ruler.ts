/** `eval ruler`: needles, variables and words that have to be found in long contexts. @module */
import type { KvRequest, PolicyName } from "../../../butler/settings_types.ts";
import { createEngineParts } from "../../../engine/create.ts";
import { LocalEngine } from "../../../engine/local_engine.ts";
import { DEFAULT_CACHE, type Engine } from "../../../engine/types.ts";
import { answerIds } from "../../../eval/generate.ts";
import { Results } from "../../../eval/results.ts";
import { PASSAGES } from "../../../eval/tasks/coref_text.ts";
import {
  RULER_TASKS,
  type RulerSample,
  rulerSample,
  rulerScore,
  type RulerTask,
} from "../../../eval/tasks/ruler.ts";
import type { Tokenizer } from "../../../tokenizer/types.ts";
import { Draws } from "../../../train/draws.ts";
import { CommandError, defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { timedBar } from "../../progress.ts";
import { openTextSide } from "../../text_side.ts";
import { decimal, integer, text, wordList } from "../../values.ts";
import { evalFlags, group, type OpenParts, originOf, resolved } from "./shared.ts";

const flags = {
  tasks: valueFlag({
    group,
    help: "tasks to run",
    placeholder: "NAME,NAME",
    schema: wordList(RULER_TASKS),
    fallback: RULER_TASKS,
    fallbackText: "all",
  }),
  samples: valueFlag({
    group,
    help: "samples of each task",
    placeholder: "N",
    schema: integer(1, 1e5),
    fallback: 24,
  }),
  tokens: valueFlag({
    group,
    help: "tokens of a prompt and its answer",
    placeholder: "N",
    schema: integer(128, 2 ** 20),
    fallback: 1024,
  }),
  share: valueFlag({
    group,
    help: "part of the rows that is attended to, sinks and window included",
    placeholder: "SHARE",
    schema: decimal(0, 1),
    fallback: 0.125,
  }),
  needed: valueFlag({
    group,
    help: "score of dense attention from which on a task is given to the other policies",
    placeholder: "SHARE",
    schema: decimal(0, 1),
    fallback: 0.6,
  }),
  prose: valueFlag({
    group,
    help: "a UTF-8 file with prose, for haystacks of that kind",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "short passages that come with the program, again and again",
  }),
  seed: valueFlag({
    group,
    help: "decides on the samples",
    placeholder: "N",
    schema: integer(0, 2 ** 32 - 1),
    fallback: 0,
  }),
  ...evalFlags,
} as const;

type Flags = Settings<typeof flags>;

/** What came of one sample under one policy. */
interface RulerFigure {
  readonly task: RulerTask;
  readonly sample: number;
  readonly policy: PolicyName;
  /** 0 to 1 */
  readonly score: number;
  readonly answer: string;
}

/** The command, over a way to make an engine in this isolate. */
export function rulerCommand(open: OpenParts) {
  return defineCommand({
    name: "eval ruler",
    summary: "needles, variables and words that have to be found in long contexts",
    usage: ["eval ruler [flags]"],
    notes: [
      "Tasks in the manner of RULER, in the chat form of the model's template, with the beginning of " +
      "the answer given. Prompts are prefilled under dense attention, answers are written greedily " +
      "under each policy, up to twice the longest reference. Dense attention comes first; the others " +
      "get the tasks that it can do.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

interface Prepared {
  readonly sample: RulerSample;
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  const { sinks, window, share, tokens } = settings;
  if (share * tokens < sinks + window) {
    throw new UsageError(
      `--share ${share} of ${tokens} rows is less than the sinks and the window`,
    );
  }
  const path = modelPath(settings);
  const side = await openTextSide(path, "chat");
  const { tokenizer, template } = side;
  if (tokenizer === undefined || template === undefined) {
    template?.close();
    throw new CommandError("this model has no chat template: these tasks are in chat form");
  }
  const prose = settings.prose === null
    ? new Array<string>(Math.ceil(tokens / 500)).fill(PASSAGES.join(" ")).join(" ")
    : readTextFile(settings.prose, "--prose");
  const parts = await open({
    modelPath: path,
    contextLength: tokens + 8,
    maxSequences: 1,
    kvType: settings.kvType,
    prefillChunk: Math.min(256, tokens),
    ...DEFAULT_CACHE,
    calibration: settings.calibration,
    predictor: settings.predictor,
    maxParameters: settings.maxParameters,
    kernelOverrides: Object.fromEntries(settings.kernel),
  }, () => {});
  const engine = new LocalEngine(parts);
  try {
    const { info } = parts;
    const requestOf = (policy: PolicyName): KvRequest =>
      policy === "dense"
        ? { policy }
        : policy === "streaming"
        ? { policy, sinks, window: Math.round(share * tokens) - sinks }
        : { policy, sinks, window, budget: { share } };
    const policies = settings.policies.filter((policy) => policy !== "dense");
    for (const policy of policies) resolved(requestOf(policy), info);
    const origin = await originOf("ruler", settings, path, info, {
      tokens,
      share,
      samples: settings.samples,
      prose: settings.prose === null ? "own" : settings.prose.replace(/^.*[/\\]/, ""),
      seed: settings.seed,
    });
    const results = new Results<RulerFigure>(settings.out, origin);
    const prepare = async (task: RulerTask, index: number): Promise<Prepared> => {
      const draws = new Draws(settings.seed, 1 + index + 1e4 * RULER_TASKS.indexOf(task));
      return await prepared(task, draws, tokens, prose, tokenizer, async (prompt) => {
        const { ids } = await template.render([{ role: "user", content: prompt }], {
          addGenerationPrompt: true,
        });
        return ids;
      });
    };
    const endIds = new Set([...tokenizer.endIds, ...side.endIds ?? []]);
    await measure(settings, io, engine, policies, requestOf, prepare, endIds, tokenizer, results);
    print(settings, io, results, policies);
    return EXIT.ok;
  } finally {
    template.close();
    await engine.close();
  }
}

async function prepared(
  task: RulerTask,
  draws: Draws,
  tokens: number,
  prose: string,
  tokenizer: Tokenizer,
  render: (prompt: string) => Promise<number[]>,
): Promise<Prepared> {
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const countTokens = (piece: string) => encode(piece).length;
  const around = (await render("")).length;
  // Answers of these tasks have at most ten words or four ids; the prefix names up to four keys.
  const reserve = around + 160;
  let sample: RulerSample;
  try {
    sample = rulerSample(task, { draws, tokens: tokens - reserve, countTokens, prose });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new CommandError(
      `${task} does not fit ${tokens} tokens: take more with --tokens, or leave it out of --tasks`,
    );
  }
  const promptIds = [...await render(sample.prompt), ...encode(sample.answerPrefix)];
  const maxTokens = 2 * countTokens(` ${sample.references.join(", ")}`);
  return { sample, promptIds, maxTokens: Math.min(maxTokens, tokens - promptIds.length) };
}

async function measure(
  settings: Flags,
  io: CliIo,
  engine: Engine,
  policies: readonly PolicyName[],
  requestOf: (policy: PolicyName) => KvRequest,
  prepare: (task: RulerTask, index: number) => Promise<Prepared>,
  endIds: ReadonlySet<number>,
  tokenizer: Tokenizer,
  results: Results<RulerFigure>,
): Promise<void> {
  const { tasks, samples, needed } = settings;
  const bar = timedBar(io, "Measuring", tasks.length * samples * 2);
  const has = (task: RulerTask, sample: number, policy: PolicyName) =>
    results.figures.some((of) => of.task === task && of.sample === sample && of.policy === policy);
  const answer = async (task: RulerTask, index: number, given: Prepared, policy: PolicyName) => {
    if (has(task, index, policy)) return;
    const { sample, promptIds, maxTokens } = given;
    const ids = await answerIds(engine, promptIds, maxTokens, endIds, requestOf(policy));
    const text = tokenizer.decode(ids, { skipSpecial: true, continues: true });
    const score = rulerScore(text, sample.references);
    results.add({ task, sample: index, policy, score, answer: text });
  };
  let done = 0;
  try {
    for (const task of tasks) {
      for (let index = 0; index < samples; index++) {
        if (!has(task, index, "dense")) {
          await answer(task, index, await prepare(task, index), "dense");
        }
        bar.update(++done);
      }
      const able = meanScore(results.figures, task, "dense") >= needed;
      for (let index = 0; index < samples; index++) {
        bar.update(++done);
        if (!able || policies.every((policy) => has(task, index, policy))) continue;
        const given = await prepare(task, index);
        // One after the other over the same prompt: its rows are still there.
        for (const policy of policies) await answer(task, index, given, policy);
      }
    }
  } finally {
    bar.stop();
  }
}

function meanScore(
  figures: readonly RulerFigure[],
  task: RulerTask,
  policy: PolicyName,
): number {
  const of = figures.filter((figure) => figure.task === task && figure.policy === policy);
  return of.reduce((sum, { score }) => sum + score, 0) / Math.max(1, of.length);
}

function print(
  settings: Flags,
  io: CliIo,
  { figures, origin }: Results<RulerFigure>,
  policies: readonly PolicyName[],
): void {
  if (settings.json) {
    io.stdout(`${JSON.stringify({ origin, figures })}\n`);
    return;
  }
  const columns: readonly PolicyName[] = ["dense", ...policies];
  const cell = (value: string) => value.padStart(12);
  io.stdout(`${"".padEnd(16)}${columns.map(cell).join("")}\n`);
  const counted = settings.tasks.filter((task) => figures.some((of) => of.task === task));
  for (const task of counted) {
    const scores = columns.map((policy) =>
      figures.some((of) => of.task === task && of.policy === policy)
        ? (100 * meanScore(figures, task, policy)).toFixed(1)
        : "-"
    );
    io.stdout(`${task.padEnd(16)}${scores.map(cell).join("")}\n`);
  }
  const able = counted.filter((task) => meanScore(figures, task, "dense") >= settings.needed);
  const together = columns.map((policy) =>
    able.reduce((sum, task) => sum + meanScore(figures, task, policy), 0) / Math.max(1, able.length)
  );
  io.stdout(
    `${"of dense".padEnd(16)}${
      together.map((score) => cell(`${(100 * score / (together[0] || 1)).toFixed(1)} %`)).join("")
    }\n`,
  );
  io.stdout(`${Object.entries(origin).map(([name, value]) => `${name} ${value}`).join(", ")}\n`);
}

export const command = rulerCommand(createEngineParts);
