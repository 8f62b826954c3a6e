/** Measures the cases of `bench latency`, context by context, all of a context in turns. @module */
import type { KvRequest, KvSettings } from "../src/butler/settings.ts";
import { Readback } from "../src/gpu/readback.ts";
import type { SequenceNeed } from "../src/kv/types.ts";
import { type DevicePart, measureParts } from "./_breakdown.ts";
import { calibrate } from "./_calibration.ts";
import type { Moment } from "./_clock.ts";
import type { PolicyCase } from "./_latency_cases.ts";
import { type Place, settingsOf } from "./_latency_place.ts";
import type { Measured } from "./_latency_report.ts";
import { decodeText, runTurn, type TurnSteps, turnSteps, TurnTimes } from "./_latency_turn.ts";
import type { CapturedRows } from "./_rows.ts";
import { BLOCK_ROWS } from "../src/kv/slab_pool.ts";

/** What is measured, and how often. */
export interface LatencyPlan {
  /** Of every case; the case's policy and interval come over it. */
  readonly base: KvRequest;
  readonly cases: readonly PolicyCase[];
  readonly steps: number;
  readonly warm: number;
  readonly rounds: number;
  readonly breakdown: boolean;
}

/** Everything about one case while its context is measured. */
interface Entry {
  readonly place: Place;
  readonly of: PolicyCase;
  readonly settings: KvSettings;
  readonly need: SequenceNeed;
  readonly steps: TurnSteps;
  readonly times: TurnTimes;
}

/** Most steps that any case takes from the end of its context. */
export function mostSteps({ cases, steps, warm }: LatencyPlan): number {
  return Math.max(...cases.map(({ interval }) => {
    const turn = turnSteps(interval, steps, warm);
    // The breakdown takes a run between two selections more.
    return turn.warm + turn.timed + interval;
  }));
}

/** What was found at one context. */
export interface ContextResult {
  readonly measured: readonly Measured[];
  /** Cases that the engine cannot run, and why. */
  readonly skipped: readonly string[];
  readonly loops: readonly Moment[];
}

/**
 * Measures all cases at one context.
 *
 * @param places Whose device, or host, has room for the context and {@linkcode mostSteps}.
 */
export async function measureContext(
  places: readonly Place[],
  rows: CapturedRows,
  context: number,
  plan: LatencyPlan,
): Promise<ContextResult> {
  const skipped: string[] = [];
  const entries: Entry[] = [];
  const maxRows = context + mostSteps(plan);
  for (const place of places) {
    const filled = settingsOf(plan.base, { policy: "dense" }, place.subject);
    await place.fill(rows, { numRows: context, maxRows, settings: filled });
    for (const of of plan.cases) {
      try {
        const settings = settingsOf(plan.base, { ...of }, place.subject);
        const need = { numRows: context, maxRows, settings };
        const steps = turnSteps(of.interval, plan.steps, plan.warm);
        const entry = { place, of, settings, need, steps, times: new TurnTimes() };
        // Once before it counts: kernels are compiled and memory is touched.
        await turn(entry, context);
        if (of.policy !== "dense" && entry.times.report === null) {
          throw new Error("the engine attended to everything all the same");
        }
        entries.push(entry);
      } catch (error) {
        skipped.push(`${place.name}, ${of.policy}: ${(error as Error).message}`);
      }
    }
  }
  const loops: Moment[] = [];
  for (const { times } of entries) times.clear();
  for (let round = 0; round < plan.rounds; round++) {
    loops.push(calibrate(1));
    for (const entry of entries) await turn(entry, context);
  }
  const measured: Measured[] = [];
  for (const entry of entries) {
    measured.push({
      place: entry.place.name,
      policy: entry.of.policy,
      settings: entry.settings,
      context,
      rows: context <= rows.numBlocks * BLOCK_ROWS ? "prefilled" : "repeated",
      times: entry.times,
      parts: plan.breakdown ? await breakdown(entry, context, plan.rounds) : null,
      poolBytes: entry.place.poolBytes,
    });
  }
  return { measured, skipped, loops };
}

async function turn({ place, settings, need, steps, times }: Entry, context: number) {
  await place.begin(need);
  await runTurn(place, settings, context, steps, times);
}

async function breakdown(
  { place, settings, need, steps }: Entry,
  context: number,
  rounds: number,
): Promise<Readonly<Record<DevicePart, number>>> {
  const { device } = place.subject.parts;
  using readback = await Readback.create(device, 16);
  await place.begin(need);
  const { interval } = settings;
  // The first selection is made in the first step. What is recorded ends with a selection: where some
  // layers choose at every step, dispatches that are sent again find nothing to do for the others else.
  const warm = steps.warm - interval + 1;
  await decodeText(place, context, warm);
  const run = () => decodeText(place, context + warm, interval);
  return await measureParts(device, readback, settings.layers, run, interval, rounds);
}
