/** `eval`: hands over to one of the evaluations. @module */
import { runCommand } from "../cli.ts";
import { type AnyCommand, defineCommand } from "../command.ts";
import { UsageError } from "../flags.ts";
import { nearest } from "../../suggest.ts";

/** One evaluation. */
export interface Evaluation {
  readonly name: string;
  /** The question it answers. */
  readonly summary: string;
  load(): Promise<{ readonly command: AnyCommand }>;
}

/** All evaluations, in the order of the help text. */
export const EVALUATIONS: readonly Evaluation[] = [
  {
    name: "ppl",
    summary: "perplexity of a text by policy and rows, as a multiple of dense attention's",
    load: () => import("./eval/ppl.ts"),
  },
  {
    name: "recall",
    summary: "recall of the truly best rows, and attention on the attended ones, by layer and head",
    load: () => import("./eval/recall.ts"),
  },
  {
    name: "coref",
    summary: "whether a name at the beginning of a story is known at its end",
    load: () => import("./eval/coref.ts"),
  },
  {
    name: "ruler",
    summary: "finding what is hidden in long texts, by policy",
    load: () => import("./eval/ruler.ts"),
  },
  {
    name: "longbench",
    summary: "the English data sets of LongBench, by policy, for whoever has them",
    load: () => import("./eval/longbench.ts"),
  },
];

export const command = defineCommand({
  name: "eval",
  summary: "measures what selection costs in quality",
  usage: ["eval NAME [flags of that evaluation]", "eval NAME --help"],
  choices: EVALUATIONS,
  flags: {},
  // What follows the name belongs to the evaluation, its --help too.
  ownsArguments: true,
  async run(_settings, io, rest) {
    const [name, ...args] = rest;
    const names = EVALUATIONS.map((entry) => entry.name);
    if (name === undefined) throw new UsageError(`which one? There are ${names.join(", ")}`);
    const entry = EVALUATIONS.find((candidate) => candidate.name === name);
    if (entry !== undefined) return await runCommand((await entry.load()).command, args, io);
    const near = nearest(name, names);
    const hint = near === undefined ? `; there are ${names.join(", ")}` : `; did you mean ${near}?`;
    throw new UsageError(`unknown evaluation ${JSON.stringify(name)}${hint}`);
  },
});
