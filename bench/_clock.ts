/**
 * Processor time of this process, all threads. On an adapter that is a CPU it says what a step
 * costs however many other programs share the machine, where wall time does not.
 *
 * @module
 */
import process from "node:process";

/** A moment on both clocks, in milliseconds. */
export interface Moment {
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** The time now; only differences mean anything. */
export function now(): Moment {
  const { user, system } = process.cpuUsage();
  return { wallMs: performance.now(), cpuMs: (user + system) / 1000 };
}

/** What has passed since, divided by `count`. */
export function since(began: Moment, count = 1): Moment {
  const end = now();
  return {
    wallMs: (end.wallMs - began.wallMs) / count,
    cpuMs: (end.cpuMs - began.cpuMs) / count,
  };
}
