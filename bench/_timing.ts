/** Times things in turns, so that a change in the load of the machine meets all. @module */
import type { Readback } from "../src/gpu/readback.ts";
import { type Moment, now, since } from "./_clock.ts";

/** Something that is timed: runs `repeats` times and waits for the end. */
export interface Timed {
  readonly repeats: number;
  run(): Promise<void>;
}

/** Least and all times of one call. */
export interface Times {
  readonly wallMs: readonly number[];
  /** Least processor time of one call; means something on adapters that are CPUs only. */
  readonly cpuMsMin: number;
}

/**
 * Runs everything once a round.
 *
 * @param between Runs before each round.
 */
export async function alternate(
  timed: readonly Timed[],
  rounds: number,
  between: () => void = () => {},
): Promise<Times[]> {
  const moments: Moment[][] = timed.map(() => []);
  for (let round = 0; round < rounds; round++) {
    between();
    for (const [index, { repeats, run }] of timed.entries()) {
      const began = now();
      await run();
      moments[index]!.push(since(began, repeats));
    }
  }
  return moments.map((list) => ({
    wallMs: list.map(({ wallMs }) => wallMs),
    cpuMsMin: Math.min(...list.map(({ cpuMs }) => cpuMs)),
  }));
}

/** How long a submission should take, so that what surrounds it does not count. */
const SUBMISSION_MS = 30;

/**
 * Makes a timed thing of an encoding function: so many calls in one submission that it takes about
 * 30 ms. Runs it twice for that, after which its kernels are compiled and its pages are in memory.
 */
export async function submission(
  device: GPUDevice,
  readback: Readback,
  encode: (pass: GPUComputePassEncoder) => void,
): Promise<Timed> {
  const send = async (repeats: number) => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < repeats; i++) encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await readback.read(16);
  };
  await send(1);
  const began = performance.now();
  await send(1);
  const once = performance.now() - began;
  const repeats = Math.max(1, Math.min(500, Math.round(SUBMISSION_MS / once)));
  return { repeats, run: () => send(repeats) };
}
