/** The benchmarks that `bench NAME` knows; each is a file of this folder. @module */
import type { CliIo } from "../src/cli/io.ts";

/** One benchmark. */
export interface Benchmark {
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
export const BENCHMARKS: readonly BenchmarkEntry[] = [];
