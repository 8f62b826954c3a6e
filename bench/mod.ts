/** The benchmarks that `bench NAME` knows; each is a file of this folder. @module */
import type { AnyCommand } from "../src/cli/command.ts";
import type { CliIo } from "../src/cli/io.ts";

/** One benchmark. */
export interface Benchmark {
  /** Its command line. */
  readonly command: AnyCommand;
  /**
   * @param args What follows the name on the command line.
   * @returns The exit code.
   */
  run(args: readonly string[], io: CliIo): Promise<number>;
}

/** How a benchmark is found. */
export interface BenchmarkEntry {
  readonly name: string;
  /** The question it answers. */
  readonly summary: string;
  load(): Promise<Benchmark>;
}

/** All benchmarks, in the order of the help text. */
export const BENCHMARKS: readonly BenchmarkEntry[] = [
  {
    name: "adapter",
    summary: "what the adapter can do at best: memory and matrix products",
    load: () => import("./adapter.ts"),
  },
  {
    name: "decode",
    summary: "time of a decode step by context, and the host's part of it",
    load: () => import("./decode.ts"),
  },
  {
    name: "prefill",
    summary: "how fast prompts are processed, by length",
    load: () => import("./prefill.ts"),
  },
  {
    name: "batch",
    summary: "tokens a second of several sequences together, compared with one",
    load: () => import("./batch.ts"),
  },
  {
    name: "limit",
    summary: "how far a decode step is from what the adapter could do",
    load: () => import("./limit.ts"),
  },
  {
    name: "kernels",
    summary: "where the time of a step goes, by part of the model",
    load: () => import("./kernels.ts"),
  },
  {
    name: "latency",
    summary: "milliseconds a token by context, policy, interval and place of the rows",
    load: () => import("./latency.ts"),
  },
  {
    name: "http",
    summary: "what HTTP and streaming cost, against the engine called directly",
    load: () => import("./http.ts"),
  },
  {
    name: "start",
    summary: "how long an engine takes to start",
    load: () => import("./start.ts"),
  },
  {
    name: "compare",
    summary: "two runs of a benchmark side by side",
    load: () => import("./compare.ts"),
  },
];
