/**
 * What an engine has done since it was started, counted as it happens: what sequences cost that are
 * given up or fail is in it too, and nobody has to wait for the end of one. Pure.
 *
 * @module
 */
import type { KvReport } from "../butler/settings_types.ts";
import { BucketCounts, type Buckets } from "./bucket_counts.ts";
import type { StepTotals } from "./runner_types.ts";
import type { SequencePhases } from "./sequence_times.ts";

/** Bounds of tokens of a step, as vLLM's histogram has them. */
export const STEP_SIZE_BOUNDS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
/** Bounds of shares. */
export const SHARE_BOUNDS = [
  ...[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
  ...[0.85, 0.9, 0.95, 0.98, 0.99, 1],
];
/** Bounds of rows of a step: 1, 2, 5, 10 ... a million. */
export const ROW_BOUNDS = [
  ...[1, 10, 100, 1000, 10_000, 100_000].flatMap((power) => [power, 2 * power, 5 * power]),
  1_000_000,
];

/** Work of an engine since its start. Everything only grows. */
export interface EngineTotals extends StepTotals {
  /** Prompt tokens that were looked for in the prefix cache, and those of them that were found. */
  readonly lookedUpTokens: number;
  readonly foundTokens: number;
  /** Prompt tokens that were prefilled. What was lost and made again counts once. */
  readonly prefilledTokens: number;
  /** Times from the slot to the first token, over all sequences, those included that go on. */
  readonly prefillMs: number;
  /** Tokens that were chosen, and the times from the first one on, over all sequences. */
  readonly generatedTokens: number;
  readonly decodeMs: number;
  /** Sequences that decoded and ended, however they did: the shares of their rows that were there ... */
  readonly residentShares: Buckets;
  /** ... their rows a step ... */
  readonly rowsPerStep: Buckets;
  /** ... and where it was measured, what their rows were worth. */
  readonly recallMasses: Buckets;
  readonly recallOverlaps: Buckets;
}

/** What of a sequence's time and tokens was not counted yet. */
export interface Progress extends Omit<SequencePhases, "queueMs"> {
  readonly generatedTokens: number;
}

/** Counts what is not the runner's to count. */
export class TotalCounts {
  /** Tokens of each step, those of prompts too. */
  readonly stepSizes = new BucketCounts(STEP_SIZE_BOUNDS);
  #lookedUpTokens = 0;
  #foundTokens = 0;
  #prefilledTokens = 0;
  #prefillMs = 0;
  #generatedTokens = 0;
  #decodeMs = 0;
  readonly #residentShares = new BucketCounts(SHARE_BOUNDS);
  readonly #rowsPerStep = new BucketCounts(ROW_BOUNDS);
  readonly #recallMasses = new BucketCounts(SHARE_BOUNDS);
  readonly #recallOverlaps = new BucketCounts(SHARE_BOUNDS);

  /** A prompt of so many tokens was looked for, and this much of it found. */
  lookedUp(numTokens: number, numFound: number): void {
    this.#lookedUpTokens += numTokens;
    this.#foundTokens += numFound;
  }

  /** So many tokens of a prompt have rows that had none before. */
  prefilled(numTokens: number): void {
    this.#prefilledTokens += numTokens;
  }

  /** A sequence came on. */
  wentOn({ promptMs, generatedTokens, predictedMs }: Progress): void {
    this.#prefillMs += promptMs;
    this.#generatedTokens += generatedTokens;
    this.#decodeMs += predictedMs;
  }

  /** A sequence leaves; null: nothing is known of its cache. */
  left(report: KvReport | null): void {
    // The first token of an answer comes from the prefill: without a step there are no rows.
    if (report === null || report.rowsPerStep === 0) return;
    this.#residentShares.add(report.residentShare);
    this.#rowsPerStep.add(report.rowsPerStep);
    if (report.recall === null) return;
    this.#recallMasses.add(report.recall.mass);
    this.#recallOverlaps.add(report.recall.overlap);
  }

  /** As plain data, with what the runner counted. */
  now(steps: StepTotals): EngineTotals {
    const { bytes, wanted, resident, recallSteps, waitedMs, waitedSteps, moved } = steps;
    return {
      bytes,
      wanted,
      resident,
      recallSteps,
      waitedMs,
      waitedSteps,
      moved,
      lookedUpTokens: this.#lookedUpTokens,
      foundTokens: this.#foundTokens,
      prefilledTokens: this.#prefilledTokens,
      prefillMs: this.#prefillMs,
      generatedTokens: this.#generatedTokens,
      decodeMs: this.#decodeMs,
      residentShares: this.#residentShares.now(),
      rowsPerStep: this.#rowsPerStep.now(),
      recallMasses: this.#recallMasses.now(),
      recallOverlaps: this.#recallOverlaps.now(),
    };
  }
}
