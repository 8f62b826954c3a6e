/** `eval coref`: does the name of a place come back after other things were told? @module */
import type { KvRequest, PolicyName } from "../../../butler/settings_types.ts";
import { createEngineParts, type EngineParts } from "../../../engine/create.ts";
import { Results } from "../../../eval/results.ts";
import { RowScorer } from "../../../eval/rows.ts";
import { type CorefSample, corefSample } from "../../../eval/tasks/coref.ts";
import { Draws } from "../../../train/draws.ts";
import { defineCommand } from "../../command.ts";
import { type Settings, UsageError, valueFlag } from "../../flags.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { modelPath } from "../../model_flags.ts";
import { timedBar } from "../../progress.ts";
import { integer, text } from "../../values.ts";
import {
  evalFlags,
  group,
  openEncoder,
  type OpenParts,
  openRows,
  originOf,
  resolved,
} from "./shared.ts";

const flags = {
  samples: valueFlag({
    group,
    help: "samples at most",
    placeholder: "N",
    schema: integer(1, 1e5),
    fallback: 200,
  }),
  names: valueFlag({
    group,
    help: "tokens of names that dense attention predicts rightly: enough when there are so many",
    placeholder: "N",
    schema: integer(1, 1e6),
    fallback: 200,
  }),
  keep: valueFlag({
    group,
    help: "percentages of all rows that are attended to, sinks and window included",
    placeholder: "P,P",
    schema: text,
    fallback: "50,12.5",
  }),
  tokens: valueFlag({
    group,
    help: "tokens of a context at least",
    placeholder: "N",
    schema: integer(64, 2 ** 17),
    fallback: 384,
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

/** Figures of one sample. */
interface CorefFigure {
  readonly sample: number;
  readonly tokens: number;
  /** Tokens of the name, and those of them that dense attention predicts. */
  readonly name: number;
  readonly dense: number;
  /** Of the latter those that are predicted too, by case: \`policy share\`. */
  readonly kept: Readonly<Record<string, number>>;
}

/** The command, over a way to make an engine in this isolate. */
export function corefCommand(open: OpenParts) {
  return defineCommand({
    name: "eval coref",
    summary: "does the name of a place come back after other things were told",
    usage: ["eval coref [flags]"],
    notes: [
      "The context is prefilled under dense attention; question and answer are fed row by row under " +
      "each policy. Counted are the tokens of the name that dense attention predicts: how many of " +
      "them a policy predicts too, also as a part of what the oracle keeps.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

interface Case {
  readonly name: string;
  readonly policy: PolicyName;
  readonly share: number;
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  if (!/^\d+(\.\d+)?(,\d+(\.\d+)?)*$/.test(settings.keep)) {
    throw new UsageError("--keep wants percentages with commas between them");
  }
  const shares = settings.keep.split(",").map((percent) => Number(percent) / 100);
  const cases = settings.policies.filter((policy) => policy !== "dense").flatMap((policy) =>
    shares.map((share): Case => ({ name: `${policy} ${100 * share} %`, policy, share }))
  );
  const path = modelPath(settings);
  const { encode, bos } = await openEncoder(path);
  const samples = Array.from(
    { length: settings.samples },
    (_, i) => corefSample(new Draws(settings.seed, i), encode, bos, settings.tokens),
  );
  const most = (pick: (sample: CorefSample) => number) => Math.max(...samples.map(pick));
  const fed = most(({ question, answer }) => question.length + answer.length);
  const room = most(({ context }) => context.length) + fed;
  const parts = await openRows(settings, open, path, room, fed);
  try {
    const origin = await originOf("coref", settings, path, parts.info, {
      keep: settings.keep,
      tokens: settings.tokens,
      seed: settings.seed,
      cases: cases.map(({ name }) => name).join(", "),
    });
    const results = new Results<CorefFigure>(settings.out, origin);
    const scorer = new RowScorer(parts, room);
    const bar = timedBar(io, "Measuring", settings.names);
    const counted = () => results.figures.reduce((sum, { dense }) => sum + dense, 0);
    try {
      for (let i = results.figures.length; i < settings.samples; i++) {
        if (counted() >= settings.names) break;
        results.add(await measure(parts, scorer, settings, cases, i, samples[i]!));
        bar.update(Math.min(counted(), settings.names));
      }
    } finally {
      bar.stop();
    }
    print(settings, io, results, cases, shares);
    return EXIT.ok;
  } finally {
    parts.dispose();
  }
}

async function measure(
  { info }: EngineParts,
  scorer: RowScorer,
  { sinks, window }: Flags,
  cases: readonly Case[],
  index: number,
  { context, question, answer }: CorefSample,
): Promise<CorefFigure> {
  const ids = [...context, ...question, ...answer];
  const hits = async (kv: KvRequest) => {
    const [rows] = await scorer.score([ids], context.length, resolved(kv, info));
    // The first row's result is of the question's second token.
    return rows!.slice(question.length - 1).map(({ hit }) => hit);
  };
  const dense = await hits({ policy: "dense" });
  const known = dense.filter((hit) => hit).length;
  const kept: Record<string, number> = {};
  for (const { name, policy, share } of cases) {
    const rows = Math.max(1, Math.round(share * ids.length) - sinks);
    const found = known === 0 ? [] : await hits(
      policy === "streaming"
        ? { policy, sinks, window: rows }
        : { policy, sinks, window, budget: { share } },
    );
    kept[name] = found.filter((hit, i) => hit && dense[i]).length;
  }
  return { sample: index, tokens: context.length, name: answer.length, dense: known, kept };
}

function print(
  settings: Flags,
  io: CliIo,
  { figures, origin }: Results<CorefFigure>,
  cases: readonly Case[],
  shares: readonly number[],
): void {
  if (settings.json) {
    io.stdout(`${JSON.stringify({ origin, figures })}\n`);
    return;
  }
  const sum = (pick: (figure: CorefFigure) => number) =>
    figures.reduce((total, figure) => total + pick(figure), 0);
  const known = sum(({ dense }) => dense);
  io.stdout(
    `${figures.length} samples of ${settings.tokens} tokens and more; ${sum(({ name }) => name)} ` +
      `tokens of names, ${known} of them predicted under dense attention\n`,
  );
  for (const share of shares) {
    const of = cases.filter((one) => one.share === share);
    const keptBy = (name: string) => sum(({ kept }) => kept[name] ?? 0);
    const oracle = of.find(({ policy }) => policy === "oracle");
    for (const { name } of of) {
      const part = 100 * keptBy(name) / Math.max(1, known);
      const ofOracle = oracle === undefined
        ? ""
        : `, ${
          (100 * keptBy(name) / Math.max(1, keptBy(oracle.name))).toFixed(1)
        } % of the oracle's`;
      io.stdout(`  ${name.padEnd(20)} ${part.toFixed(1).padStart(6)} %${ofOracle}\n`);
    }
  }
  io.stdout(`${Object.entries(origin).map(([name, value]) => `${name} ${value}`).join(", ")}\n`);
}

export const command = corefCommand(createEngineParts);
