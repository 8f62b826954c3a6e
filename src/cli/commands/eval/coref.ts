/** `eval coref`: whether a name at the beginning of a story is known at its end. @module */
import { POLICY_NAMES } from "../../../butler/settings.ts";
import { createEngineParts, type EngineParts } from "../../../engine/create.ts";
import {
  makeStory,
  type NameHits,
  type NameScore,
  scoreNames,
  type StoryIds,
  storyIds,
} from "../../../eval/coref/stories.ts";
import { caseName, pplCases, settingsOfCase } from "../../../eval/ppl.ts";
import { Results } from "../../../eval/results.ts";
import { rowsAreIndependent, RowScorer, type RowText } from "../../../eval/rows.ts";
import { lineChart } from "../../../report/chart.ts";
import { CommandError, defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { jobFlags } from "../../job_flags.ts";
import { timedBar } from "../../progress.ts";
import { integer, text } from "../../values.ts";
import {
  batchFlag,
  choosePolicies,
  type OpenParts,
  openParts,
  originLine,
  originOf,
  outputFlags,
  policiesFlag,
  rowFlags,
  SELECTING,
  settingsFor,
  shares,
  situationOf,
  subjectFlags,
  tablesOf,
  tokenizerOf,
} from "./common.ts";
import { checkOutputs, writePicture } from "../../outputs.ts";

const group = "Evaluation";

const flags = jobFlags("eval-coref", {
  ...policiesFlag("policies to compare; dense and oracle come always", POLICY_NAMES),
  keep: valueFlag({
    group,
    help: "shares of all rows that a KV head attends to, sinks and window included",
    placeholder: "S,S",
    schema: text,
    fallback: "0.5,0.125",
  }),
  stories: valueFlag({
    group,
    help: "stories at most",
    placeholder: "N",
    schema: integer(1, 1e6),
    fallback: 200,
  }),
  names: valueFlag({
    group,
    help:
      "tokens of names that dense attention predicts: when there are so many, no further story " +
      "is told",
    placeholder: "N",
    schema: integer(1, 1e9),
    fallback: null,
    fallbackText: "all stories are told",
  }),
  tokens: valueFlag({
    group,
    help: "tokens that a story has at least before its question",
    placeholder: "N",
    schema: integer(64, 2 ** 17),
    fallback: 384,
  }),
  seed: valueFlag({
    group,
    help: "decides on the stories",
    placeholder: "N",
    schema: integer(0, 2 ** 32 - 1),
    fallback: 0,
  }),
  ...rowFlags,
  ...batchFlag,
  ...outputFlags,
  ...subjectFlags,
});

type Flags = Settings<typeof flags>;

/** A way of attending. */
interface Case {
  readonly policy: typeof POLICY_NAMES[number];
  /** Null: all rows. */
  readonly keep: number | null;
  readonly table: boolean | null;
}

/** What was found of a case. */
export interface CorefFigure extends Case {
  /** By story: 1 for each token of the name that was predicted, else 0. */
  readonly stories: string[];
}

/** Stories that are decoded together where rows are not. */
const TOGETHER = 8;

/** The command, over a way to make an engine in this isolate. */
export function corefCommand(open: OpenParts) {
  return defineCommand({
    name: "eval coref",
    summary: "whether a name at the beginning of a story is known at its end",
    usage: ["eval coref [flags]"],
    notes: [
      "A story names a place, goes on to other matters, and ends with a question that leads back to " +
      "the name. It is prefilled under dense attention up to the question; question and name are " +
      "decoded under each policy, the name as it is whatever was predicted. Counted are those tokens " +
      "of the names that dense attention predicts; names counts whole ones. of oracle: hits as a " +
      "share of those with the true top-B.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  const { sinks, window, seed, tokens } = settings;
  const keeps = shares("--keep", settings.keep);
  checkOutputs({ out: settings.out, svg: settings.svg });
  const tokenizer = await tokenizerOf(modelPath(settings));
  const encode = (text: string) => tokenizer.encode(text, { parseSpecial: false, addBos: true });
  const count = (text: string) => encode(text).length;
  const stories = Array.from(
    { length: settings.stories },
    (_, index) => storyIds(makeStory(seed, index, tokens, count), encode),
  );
  const shortest = Math.min(...stories.map(({ ids }) => ids.length));
  if (keeps.some((keep) => Math.round(keep * shortest) < sinks + window)) {
    throw new UsageError(
      `--keep: ${Math.min(...keeps)} of ${shortest} rows is less than sinks and window, ` +
        `${sinks + window}: keep more, or take more --tokens`,
    );
  }
  const longest = Math.max(...stories.map(({ ids }) => ids.length));
  const parts = await openParts(settings, open, longest, settings.batch, io);
  try {
    const { info } = parts;
    const chosen = choosePolicies(settings.policies, SELECTING, info, io);
    const policies = POLICY_NAMES.filter((name) => name === "oracle" || chosen.includes(name));
    const results = new Results<CorefFigure>(settings.out, {
      ...await originOf("coref", info, settings),
      context: tokens,
      sinks,
      window,
      seed,
      stories: settings.stories,
    });
    for (const { policy, table, total } of pplCases(policies, keeps, [1], tablesOf(info))) {
      const of = { policy, keep: total, table };
      if (!results.figures.some((figure) => sameCase(figure, of))) {
        results.figures.push({ ...of, stories: [] });
      }
    }
    await measure(parts, stories, settings, io, results);
    print(settings, io, results);
    return EXIT.ok;
  } finally {
    parts.dispose();
  }
}

async function measure(
  parts: EngineParts,
  stories: readonly StoryIds[],
  settings: Flags,
  io: CliIo,
  results: Results<CorefFigure>,
): Promise<void> {
  const { info } = parts;
  const situation = situationOf(info);
  const textOf = (story: StoryIds, { policy, keep, table }: Case): RowText => {
    const total = keep === null ? null : Math.round(keep * story.ids.length);
    const of = { policy, total, table, interval: 1 };
    const kv = settingsFor(policy, () => settingsOfCase(of, settings, info.model, situation));
    return { ids: story.ids, prefilled: story.context, settings: kv };
  };
  const scorer = new RowScorer(parts, Math.max(...stories.map(({ ids }) => ids.length)));
  const follow = async (story: readonly number[], figure: CorefFigure) => {
    const texts = story.map((index) => textOf(stories[index]!, figure));
    const found = await scorer.follow(texts, 1);
    found.forEach((entries, i) => {
      const { ids, context, name } = stories[story[i]!]!;
      figure.stories[story[i]!] = ids.slice(name).map((id, token) => {
        const [likeliest] = entries[name + token - context - 1]!.top;
        return likeliest!.id === id ? "1" : "0";
      }).join("");
    });
  };
  const apart = results.figures.filter((of) =>
    rowsAreIndependent(textOf(stories[0]!, of).settings)
  );
  const others = results.figures.filter((of) => !apart.includes(of));
  const left = results.figures.reduce((sum, of) => sum + stories.length - of.stories.length, 0);
  const bar = timedBar(io, "Measuring", Math.max(1, left));
  let done = 0;
  let known = 0;
  let told = 0;
  try {
    for (; told < stories.length && known < (settings.names ?? Infinity); told++) {
      const index = told;
      // All of them over one prefill.
      const open = apart.filter((figure) => figure.stories.length <= index);
      for (const figure of open) {
        await follow([index], figure);
        bar.update(++done);
      }
      if (open.length > 0) results.save();
      const dense = apart.find(({ keep }) => keep === null)!;
      known += [...dense.stories[index]!].filter((digit) => digit === "1").length;
    }
    for (const figure of others) {
      while (figure.stories.length < told) {
        const first = figure.stories.length;
        const count = Math.min(TOGETHER, told - first);
        await follow(Array.from({ length: count }, (_, i) => first + i), figure);
        results.save();
        bar.update(done += count);
      }
    }
  } finally {
    bar.stop();
  }
}

function sameCase(a: Case, b: Case): boolean {
  return a.policy === b.policy && a.keep === b.keep && a.table === b.table;
}

/** A figure with what follows from it. */
interface CorefLine extends Case, NameScore {
  /** Hits over those of the oracle with as many rows. */
  readonly ofOracle: number | null;
}

function linesOf(figures: readonly CorefFigure[]): CorefLine[] {
  const told = Math.min(...figures.map(({ stories }) => stories.length));
  const hitsOf = ({ stories }: CorefFigure): NameHits[] =>
    stories.slice(0, told).map((story) => ({ hits: [...story].map((digit) => digit === "1") }));
  const dense = figures.find(({ keep }) => keep === null)!;
  const lines = figures.map(({ policy, keep, table, stories }) => ({
    policy,
    keep,
    table,
    ...scoreNames(hitsOf(dense), hitsOf({ policy, keep, table, stories })),
  }));
  return lines.map((line) => {
    const oracle = lines.find(({ policy, keep }) => policy === "oracle" && keep === line.keep);
    const ofOracle = oracle === undefined || oracle.hits === 0 ? null : line.hits / oracle.hits;
    return { ...line, ofOracle };
  });
}

function print(settings: Flags, io: CliIo, { figures, origin }: Results<CorefFigure>): void {
  const lines = linesOf(figures);
  const told = Math.min(...figures.map(({ stories }) => stories.length));
  if (settings.json) io.stdout(`${JSON.stringify({ origin, figures: lines })}\n`);
  else {
    const [{ tokens, names }] = lines as [CorefLine];
    io.stdout(
      `${told} stories; dense attention predicts ${tokens} tokens of names and ${names} ` +
        "whole names; of these, by share of rows:\n",
    );
    const nameOf = (line: Case) => caseName({ ...line, total: null, interval: 1 });
    const width = Math.max(8, ...lines.map((line) => nameOf(line).length));
    const row = (cells: readonly string[]) => cells.map((text) => text.padStart(11)).join("");
    io.stdout(`  ${"".padEnd(width)}${row(["rows kept", "tokens", "names", "of oracle"])}\n`);
    for (const line of lines.filter(({ keep }) => keep !== null)) {
      const cells = [
        `${(line.keep! * 100).toFixed(1)} %`,
        percent(line.hits, line.tokens),
        percent(line.wholeNames, line.names),
        line.ofOracle === null ? "-" : percent(line.ofOracle, 1),
      ];
      io.stdout(`  ${nameOf(line).padEnd(width)}${row(cells)}\n`);
    }
    io.stdout(originLine(origin));
  }
  if (settings.svg !== null) writePicture(settings.svg, picture(lines));
}

function percent(part: number, whole: number): string {
  return whole === 0 ? "-" : `${(100 * part / whole).toFixed(1)} %`;
}

function picture(lines: readonly CorefLine[]): string {
  const sparse = lines.filter(({ keep }) => keep !== null);
  const nameOf = (line: Case) => caseName({ ...line, total: null, interval: 1 });
  if (sparse.every(({ tokens }) => tokens === 0)) {
    throw new CommandError("--svg: dense attention predicts no name: there is nothing to show");
  }
  return lineChart({
    title: "Names that are known, of those that dense attention knows",
    x: { label: "share of rows", scale: "linear" },
    y: { label: "share of their tokens", scale: "linear" },
    series: [...new Set(sparse.map(nameOf))].map((name) => ({
      name,
      points: sparse.filter((line) => nameOf(line) === name)
        .map(({ keep, hits, tokens }) => [keep!, hits / tokens] as const)
        .sort(([a], [b]) => a - b),
    })),
  });
}

export const command = corefCommand(createEngineParts);
