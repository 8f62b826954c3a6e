/** Many clients at one server, and what has to be as before when they are gone. @module */
import type { Engine, EngineStats } from "../../src/engine/types.ts";
import { caseRandom } from "../fuzz/_mutate.ts";
import { ask, client, type Outcome, questions } from "./_clients.ts";

/** What is asked of a soak. */
export interface SoakOptions {
  readonly url: string;
  readonly engine: Engine;
  readonly seed: number;
  readonly clients: number;
  readonly seconds: number;
  /** Called now and then with seconds since the start. */
  readonly onProgress?: (seconds: number) => void;
}

/** What was seen. */
export interface SoakResult {
  /** How often each manner ended how. */
  readonly outcomes: ReadonlyMap<string, number>;
  /** (seconds, bytes) of the whole process. */
  readonly memory: readonly (readonly [number, number])[];
  readonly before: EngineStats;
  readonly after: EngineStats;
}

const SAMPLE_MS = 1000;
/** Time in which everything has to be free again. */
const FREE_WITHIN_MS = 5000;

/**
 * Runs clients.
 *
 * @throws {Error} On the first request that was answered wrongly or not at all.
 */
export async function soak(options: SoakOptions): Promise<SoakResult> {
  const { url, engine, seed, clients, seconds } = options;
  const asked = questions(24);
  const answers: string[] = [];
  for (const question of asked) answers.push(await ask(url, question));
  const before = await engine.stats();
  const outcomes = new Map<string, number>();
  const memory: [number, number][] = [];
  const start = performance.now();
  const since = () => (performance.now() - start) / 1000;
  let failed = false;
  const count = (name: string, outcome: Outcome) => {
    const key = `${name}: ${outcome}`;
    outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
  };
  const sampling = setInterval(() => {
    memory.push([since(), Deno.memoryUsage().rss]);
    options.onProgress?.(since());
  }, SAMPLE_MS);
  try {
    const isOver = () => failed || since() >= seconds;
    await Promise.all(
      Array.from(
        { length: clients },
        (_, index) =>
          client(url, asked, answers, caseRandom(seed, index), isOver, count)
            .catch((error) => {
              failed = true;
              throw error;
            }),
      ),
    );
  } finally {
    clearInterval(sampling);
  }
  const after = await settled(engine, before);
  return { outcomes, memory, before, after };
}

/** What has to be as before: all but counters, and rows that are kept for later prompts. */
export function inUse(stats: EngineStats) {
  const { pagesInUse, runningSequences, waitingSequences, parkedSequences, slots } = stats;
  return {
    pagesInUse,
    runningSequences,
    waitingSequences,
    parkedSequences,
    busySlots: slots.filter(({ running }) => running !== null).length,
  };
}

/** Waits until as much is in use as before. */
async function settled(engine: Engine, before: EngineStats): Promise<EngineStats> {
  const until = performance.now() + FREE_WITHIN_MS;
  for (;;) {
    const now = await engine.stats();
    const same = now.pagesInUse === before.pagesInUse && now.runningSequences === 0 &&
      now.waitingSequences === 0;
    if (same || performance.now() > until) return now;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/**
 * How much more memory there is at the end than after the warm-up: the middle of the last tenth over
 * that of the tenth after the first quarter, less 1.
 */
export function growth(memory: SoakResult["memory"]): number {
  const tenth = Math.max(1, Math.floor(memory.length / 10));
  const first = Math.floor(memory.length / 4);
  const middle = (from: number) =>
    memory.slice(from, from + tenth).map(([, bytes]) => bytes).sort((a, b) => a - b)[tenth >> 1]!;
  return middle(memory.length - tenth) / middle(first) - 1;
}
