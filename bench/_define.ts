/** Makes a benchmark out of flags and a function, with `--help` like any command. @module */
import { runCommand } from "../src/cli/cli.ts";
import { defineCommand } from "../src/cli/command.ts";
import { type Flags, type Settings, valueFlag } from "../src/cli/flags.ts";
import { type CliIo, EXIT } from "../src/cli/io.ts";
import { jobFlags } from "../src/cli/job_flags.ts";
import { integer } from "../src/cli/values.ts";
import { z } from "zod";
import type { Benchmark } from "./mod.ts";

/** Declaration of a benchmark. */
export interface BenchmarkSpec<F extends Flags> {
  readonly name: string;
  /** The question it answers. */
  readonly summary: string;
  /** Paragraphs under the flags: how it measures, what the figures mean. */
  readonly notes?: readonly string[];
  readonly flags: F;
  measure(settings: Settings<F>, io: CliIo): Promise<void>;
}

/** Gives a benchmark its command line. */
export function defineBenchmark<const F extends Flags>(spec: BenchmarkSpec<F>): Benchmark {
  const name = `bench ${spec.name}`;
  const command = defineCommand({
    name,
    summary: spec.summary,
    usage: [`${name} [flags]`],
    notes: [
      ...spec.notes ?? [],
      "Standard output gets a line of JSON for each case, standard error the table.",
    ],
    flags: jobFlags(name.replace(" ", "-"), spec.flags),
    async run(settings, io) {
      await spec.measure(settings, io);
      return EXIT.ok;
    },
  });
  return { command, run: (args, io) => runCommand(command, args, io) };
}

const group = "Measurement";

/** `--NAME 512,2048`: several whole numbers. */
export function integersFlag(
  help: string,
  fallback: readonly number[],
  max = 2 ** 20,
  min = 1,
) {
  const rule = `wanted whole numbers from ${min} to ${max} with commas between them`;
  return valueFlag({
    group,
    help,
    placeholder: "N,N",
    schema: z.string().regex(/^\d+(,\d+)*$/, rule).transform((list) => list.split(",").map(Number))
      .pipe(z.array(z.number().min(min, rule).max(max, rule))),
    fallback,
    fallbackText: fallback.join(),
  });
}

/** A count of repeats. */
export function countFlag(help: string, fallback: number, min = 1) {
  return valueFlag({
    group,
    help,
    placeholder: "N",
    schema: integer(min, 100_000),
    fallback,
  });
}
