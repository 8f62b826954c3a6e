/** Many clients at one server, and what has to be as before when they are gone. @module */
import { caseRandom } from "../fuzz/_mutate.ts";
import { ask, client as runClient, questions } from "./_clients.ts";
import type { Outcome } from "./_manners.ts";
import { inUse, type Load, loadOf, type Target } from "./_target.ts";

/** What is asked of a soak. */
export interface SoakOptions {
  readonly target: Target;
  readonly seed: number;
  readonly clients: number;
  readonly seconds: number;
  /** Called at each look. */
  readonly onSample?: (sample: Sample) => void;
}

/** A look at the server. */
export interface Sample extends Load {
  readonly second: number;
}

/** What was seen. */
export interface SoakResult {
  /** How often each manner ended how. */
  readonly outcomes: ReadonlyMap<string, number>;
  readonly samples: readonly Sample[];
  readonly before: Load;
  readonly after: Load;
}

const SAMPLE_MS = 1000;
/**
 * How long clients keep a connection on which nothing is said: less than the server does. Whoever
 * keeps one longer may send a request on it in the moment in which it is closed.
 */
const IDLE_MS = 1000;
/** Now and then nobody asks for an answer: only then is there a free slot whose rows can be moved. */
const LULL_EVERY_S = 30;
const LULL_S = 8;
/** Time in which everything has to be free again. */
const FREE_WITHIN_MS = 5000;

/**
 * Runs clients.
 *
 * @throws {Error} On the first request that was answered wrongly or not at all.
 */
export async function soak(options: SoakOptions): Promise<SoakResult> {
  const { seed, clients, seconds } = options;
  using client = Deno.createHttpClient({ poolIdleTimeout: IDLE_MS });
  const target = { ...options.target, client };
  const asked = questions(24);
  const answers: string[] = [];
  for (const question of asked) answers.push(await ask(target, question));
  const before = await loadOf(target);
  const outcomes = new Map<string, number>();
  const samples: Sample[] = [];
  const start = performance.now();
  const since = () => (performance.now() - start) / 1000;
  let failed = false;
  const fail = (error: unknown): never => {
    failed = true;
    throw error;
  };
  const isOver = () => failed || since() >= seconds;
  const isLull = () => since() % LULL_EVERY_S > LULL_EVERY_S - LULL_S;
  const count = (name: string, outcome: Outcome) => {
    const key = `${name}: ${outcome}`;
    outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
  };
  const sampling = async () => {
    while (!isOver()) {
      const sample = { second: since(), ...await loadOf(target) };
      samples.push(sample);
      options.onSample?.(sample);
      await new Promise((resolve) => setTimeout(resolve, SAMPLE_MS));
    }
  };
  const one = (index: number) =>
    runClient(target, index, asked, answers, caseRandom(seed, index), { isOver, isLull }, count);
  // Nobody is left behind when one fails: the others end with their next answer.
  const ends = await Promise.allSettled(
    [sampling(), ...Array.from({ length: clients }, (_, index) => one(index))].map((end) =>
      end.catch(fail)
    ),
  );
  const failure = ends.find((end) => end.status === "rejected");
  if (failure !== undefined) throw failure.reason;
  return { outcomes, samples, before, after: await settled(target, before) };
}

/** Waits until as much is in use as before. */
async function settled(target: Target, before: Load): Promise<Load> {
  const until = performance.now() + FREE_WITHIN_MS;
  const wanted = JSON.stringify(inUse(before));
  for (;;) {
    const now = await loadOf(target);
    if (JSON.stringify(inUse(now)) === wanted || performance.now() > until) return now;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** What is not as it has to be; empty where all is. */
export function problemsOf({ before, after }: SoakResult): string[] {
  const [was, is] = [inUse(before), inUse(after)].map((load) => JSON.stringify(load));
  const perBlock = ({ hostBytes, cachedBlocks }: Load) => hostBytes / cachedBlocks;
  const problems: string[] = [];
  if (was !== is) problems.push(`in use before: ${was}, after: ${is}`);
  // Rows in host memory are all of blocks that wait to be found: nobody else is there.
  if (perBlock(before) !== perBlock(after)) {
    problems.push(`${after.hostBytes} bytes of rows for ${after.cachedBlocks} blocks`);
  }
  return problems;
}

/**
 * How much more memory there is at the end than after the warm-up: the middle of the last tenth over
 * that of the tenth after the first quarter, less 1.
 */
export function growth(bytes: readonly number[]): number {
  const [first, last] = tenths(bytes);
  return last / first - 1;
}

/** Memory may have grown by so much after the warm-up. */
export const MOST_GROWTH = 0.05;
/** Runs of fewer minutes are over while caches and compiled code still fill memory. */
export const MEMORY_MINUTES = 10;

/** What a run says about the memory of its server, by the bytes of each look. */
export function judgeMemory(
  bytes: readonly number[],
  minutes: number,
): { readonly verdict: "fine" | "grew" | "not judged"; readonly text: string } {
  if (minutes < MEMORY_MINUTES) {
    return {
      verdict: "not judged",
      text:
        `memory was not judged: that takes ${MEMORY_MINUTES} minutes, and this run had ${minutes}`,
    };
  }
  const grew = growth(bytes) > MOST_GROWTH;
  const least = `${MOST_GROWTH * 100} %`;
  return grew
    ? { verdict: "grew", text: `memory grew by more than ${least}` }
    : { verdict: "fine", text: `memory grew by no more than ${least}` };
}

/** Middle of the tenth after the first quarter, and of the last tenth. */
export function tenths(values: readonly number[]): readonly [number, number] {
  const tenth = Math.max(1, Math.floor(values.length / 10));
  const middle = (from: number) =>
    values.slice(from, from + tenth).sort((a, b) => a - b)[tenth >> 1]!;
  return [middle(Math.floor(values.length / 4)), middle(values.length - tenth)];
}
