/** `bench`: hands over to one of the benchmarks. @module */
import { BENCHMARKS } from "../../../bench/mod.ts";
import { defineCommand } from "../command.ts";
import { UsageError } from "../flags.ts";
import { nearest } from "../../suggest.ts";

export const command = defineCommand({
  name: "bench",
  summary: "measures speed",
  usage: ["bench NAME [flags of that benchmark]", "bench NAME --help"],
  choices: BENCHMARKS,
  flags: {},
  // What follows the name belongs to the benchmark, its --help too.
  ownsArguments: true,
  async run(_settings, io, rest) {
    const [name, ...args] = rest;
    const names = BENCHMARKS.map((entry) => entry.name);
    if (name === undefined) throw new UsageError(`which one? There are ${names.join(", ")}`);
    const entry = BENCHMARKS.find((candidate) => candidate.name === name);
    if (entry === undefined) {
      const near = nearest(name, names);
      const hint = near === undefined
        ? `; there are ${names.join(", ")}`
        : `; did you mean ${near}?`;
      throw new UsageError(`unknown benchmark ${JSON.stringify(name)}${hint}`);
    }
    return await (await entry.load()).run(args, io);
  },
});
