/**
 * What changed between two runs of a benchmark? Reads the lines of JSON of both and puts the times
 * of equal cases side by side.
 *
 * Run: `./run bench compare --before old.jsonl --after new.jsonl`
 *
 * @module
 */
import { MisfitError } from "../src/cli/command.ts";
import { type Settings, UsageError, valueFlag } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { text } from "../src/cli/values.ts";
import { defineBenchmark } from "./_define.ts";
import { type Case, table } from "./_report.ts";
import { round } from "./_stats.ts";

const file = (help: string) =>
  valueFlag({
    group: "Runs",
    help,
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "required",
  });

const flags = {
  before: file("lines of JSON of the older run"),
  after: file("lines of JSON of the newer run"),
};

/** What says which case a line is; everything else is a figure, or may differ. */
const IDENTITY = [
  "bench",
  "what",
  "step",
  "part",
  "kind",
  "shape",
  "context",
  "tokens",
  "sequences",
  "reached",
];
/** Not part of what is measured for benchmarks that try variants: there it tells cases apart. */
const VARIANT_BENCHES = ["adapter"];
const FIGURES = ["ms", "msMin", "msMedian", "cpuMsMin", "oursMs", "llamaMs"];

/** Name of a case, equal in both runs. */
function identity(entry: Case): string {
  const keys = VARIANT_BENCHES.includes(String(entry["bench"]))
    ? [...IDENTITY, "variant"]
    : IDENTITY;
  return keys.filter((key) => (entry[key] ?? null) !== null).map((key) => `${entry[key]}`)
    .join(" ");
}

/** Lines of JSON by the name of their case; of several with one name the last counts. */
export function parseRun(lines: string, name: string): Map<string, Case> {
  const cases = new Map<string, Case>();
  for (const [index, line] of lines.split("\n").entries()) {
    if (line.trim() === "") continue;
    let entry: unknown;
    try {
      entry = JSON.parse(line);
    } catch {
      entry = null;
    }
    if (typeof entry !== "object" || entry === null || Array.isArray(entry)) {
      throw new MisfitError(`${name}, line ${index + 1}: wanted a line of JSON of a benchmark`);
    }
    cases.set(identity(entry as Case), entry as Case);
  }
  return cases;
}

/** One row for each case that both runs have: its figures, and how many times as fast it became. */
export function compareRuns(before: Map<string, Case>, after: Map<string, Case>): Case[] {
  const rows: Case[] = [];
  for (const [name, entry] of after) {
    const old = before.get(name);
    if (old === undefined) continue;
    const row: Record<string, string | number> = { case: name };
    for (const figure of FIGURES) {
      const was = old[figure];
      const is = entry[figure];
      if (typeof was !== "number" || typeof is !== "number") continue;
      row[`${figure} before`] = was;
      row[`${figure} after`] = is;
      row[`${figure} gain`] = round(was / is, 3);
    }
    rows.push(row);
  }
  return rows;
}

async function read(path: string | null, flag: string): Promise<Map<string, Case>> {
  if (path === null) throw new UsageError(`${flag} is required`);
  try {
    return parseRun(await Deno.readTextFile(path), path);
  } catch (error) {
    if (error instanceof MisfitError) throw error;
    throw new MisfitError(`${path} cannot be read: ${(error as Error).message}`);
  }
}

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const before = await read(settings.before, "--before");
  const after = await read(settings.after, "--after");
  const rows = compareRuns(before, after);
  if (rows.length === 0) throw new MisfitError("the two runs have no case in common");
  for (const row of rows) io.stdout(`${JSON.stringify(row)}\n`);
  const only = [...before.keys()].filter((name) => !after.has(name)).length;
  io.stderr(`${table(rows).join("\n")}\n${only} cases of the older run have no counterpart\n`);
}

export const { command, run } = defineBenchmark({
  name: "compare",
  summary: "two runs of a benchmark side by side",
  notes: ["A difference means something only where the loop in JavaScript took equally long."],
  flags,
  measure,
});
