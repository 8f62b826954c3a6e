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
export function timedBar(
  io: Pick<CliIo, "stderr" | "stderrIsTerminal">,
  label: string,
  total: number,
): ProgressBar {
  if (!io.stderrIsTerminal) return progressLines(io, label, total);
  const left = timeLeft(total);
  return drawProgressBar(label, total, (done) => {
    const seconds = left(done);
    return seconds === null ? "" : `, about ${durationText(seconds)} left`;
  });
}

/**
 * Tells how many seconds are left when so many units are done; null while that is unknown. Only what
 * was done since the first call counts: what an earlier run did says nothing about the time.
 */
export function timeLeft(
  total: number,
  now: () => number = () => performance.now(),
): (done: number) => number | null {
  let begun: { readonly time: number; readonly done: number } | undefined;
  return (done) => {
    const time = now();
    begun ??= { time, done };
    if (done <= begun.done) return null;
    const each = (time - begun.time) / (done - begun.done);
    return each * Math.max(0, total - done) / 1000;
  };
}

/** A time in words: 40 s, 12 min, 2 h 5 min. */
export function durationText(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
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
  const left = timeLeft(total, now);
  return {
    update(done) {
      const time = now();
      const seconds = left(done);
      if (time - last < LINE_EVERY_MS || seconds === null) return;
      last = time;
      const part = Math.floor(100 * done / total);
      const minutes = Math.ceil(seconds / 60);
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
