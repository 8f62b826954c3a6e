/** Progress: bars on a terminal; anywhere else a line now and then of what takes minutes. @module */
import { drawProgressBar, type ProgressBar } from "std-cli";
import type { LoadProgress } from "../engine/types.ts";
import type { CliIo } from "./io.ts";

const SILENT: ProgressBar = { update: () => {}, stop: () => {} };

/** A bar on standard error where that is a terminal, else nothing. */
export function progressBar(io: CliIo, label: string, total: number): ProgressBar {
  return io.stderrIsTerminal ? drawProgressBar(label, total) : SILENT;
}

/** The same for work that takes minutes: with the time that is left, and lines where no bar can be. */
export function timedBar(io: CliIo, label: string, total: number): ProgressBar {
  return io.stderrIsTerminal
    ? drawProgressBar(label, total, true)
    : progressLines(io, label, total);
}

/** Between two lines, in milliseconds. */
const LINE_EVERY_MS = 60_000;

/** A line on standard error, once a minute where something was done: for logs of long work. */
export function progressLines(
  io: Pick<CliIo, "stderr">,
  label: string,
  total: number,
  now: () => number = () => performance.now(),
): ProgressBar {
  let last = now();
  /** Where it began: what was done before, in an earlier run, says nothing about the time. */
  let begun: { readonly time: number; readonly done: number } | undefined;
  return {
    update(done) {
      const time = now();
      begun ??= { time, done };
      if (time - last < LINE_EVERY_MS || done <= begun.done) return;
      last = time;
      const each = (time - begun.time) / (done - begun.done);
      const minutes = Math.ceil(each * Math.max(0, total - done) / 60_000);
      const part = Math.floor(100 * done / total);
      io.stderr(`${label}: ${done} of ${total} (${part} %), about ${minutes} min left\n`);
    },
    stop() {},
  };
}

const PHASES: Readonly<Record<LoadProgress["phase"], string>> = {
  device: "Opening the device",
  weights: "Loading weights   ",
  pipelines: "Building kernels  ",
  ready: "Ready             ",
};

/** Shows how an engine starts: one bar after the other. Stop it when the engine is up. */
export function loadProgress(io: CliIo): { report(progress: LoadProgress): void; stop(): void } {
  let bar: ProgressBar | undefined;
  let phase: LoadProgress["phase"] | undefined;
  return {
    report(progress) {
      if (progress.phase !== phase) {
        bar?.stop();
        phase = progress.phase;
        bar = phase === "ready" ? undefined : progressBar(io, PHASES[phase], 100);
      }
      bar?.update(Math.round(progress.fraction * 100));
    },
    stop() {
      bar?.stop();
      bar = undefined;
    },
  };
}

/** A prompt shorter than this is over before a bar could be read. */
const LONG_PREFILL_TOKENS = 256;

/** Shows how a prompt is processed, when it is long. */
export function prefillProgress(
  io: CliIo,
): { report(processed: number, total: number): void; stop(): void } {
  let bar: ProgressBar | undefined;
  return {
    report(processed, total) {
      if (total < LONG_PREFILL_TOKENS) return;
      bar ??= progressBar(io, "Reading the prompt", total);
      bar.update(processed);
    },
    stop() {
      bar?.stop();
      bar = undefined;
    },
  };
}
