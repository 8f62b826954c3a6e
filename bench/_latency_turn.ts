/** One turn of a case: steps that warm it up, and steps that are timed. @module */
import type { KvReport, KvSettings } from "../src/butler/settings.ts";
import type { DecodeRow } from "../src/engine/runner_types.ts";
import { TieredCache } from "../src/kv/tiered_cache.ts";
import { Watch, type Watched, writeBytes } from "./_breakdown.ts";
import { type Moment, now, since } from "./_clock.ts";
import { type Place, SLOT } from "./_latency_place.ts";
import { PLAIN, textIds } from "./_subject.ts";

/** How many steps a turn has. */
export interface TurnSteps {
  readonly warm: number;
  /** A multiple of the interval. */
  readonly timed: number;
}

/** What is seen in the timed steps of all turns of a case. */
export class TurnTimes {
  /** Mean of each run of as many steps as there are between two selections. */
  readonly runMs: number[] = [];
  /** The longest step of each run. */
  readonly longestMs: number[] = [];
  /** Of a step in the mean of each turn: waiting for the device, and what the host does meanwhile. */
  readonly waitMs: number[] = [];
  /** Handing work over; some drivers do work of their own, or the device's, before they return. */
  readonly submitMs: number[] = [];
  readonly gatherMs: number[] = [];
  readonly uploadMs: number[] = [];
  readonly moments: Moment[] = [];
  /** Bytes that were written to the device, in the mean of a step: rows, tables, all. */
  writtenBytes = 0;
  /** What the engine says of the timed steps of the last turn. */
  report: Pick<KvReport, "bytesPerStep" | "residentShare" | "rowsPerStep"> | null = null;

  clear(): void {
    for (const list of [this.runMs, this.longestMs, this.waitMs]) list.length = 0;
    for (const list of [this.gatherMs, this.uploadMs, this.submitMs]) list.length = 0;
    this.moments.length = 0;
  }
}

/** Steps of a turn: at least `least`, whole runs between selections; warm after two selections. */
export function turnSteps(interval: number, least: number, warm: number): TurnSteps {
  const whole = (steps: number) => Math.ceil(steps / interval) * interval;
  return { warm: whole(Math.max(warm, interval + 1)), timed: whole(least) };
}

/** Feeds real text to the sequence, token after token. */
export async function decodeText(place: Place, first: number, count: number): Promise<void> {
  const { runner, kv } = place.subject.parts;
  const tokens = textIds(place.subject, first, count);
  for (const [index, token] of tokens.entries()) {
    const row: DecodeRow = { slot: SLOT, position: first + index, token, sample: PLAIN };
    kv.reserve(SLOT, row.position + 1);
    await runner.decode([row]);
  }
}

/** Runs a turn and notes what it takes. The sequence has begun and has rows 0 .. numRows - 1. */
export async function runTurn(
  place: Place,
  settings: KvSettings,
  numRows: number,
  { warm, timed }: TurnSteps,
  times: TurnTimes,
): Promise<void> {
  const { runner, device, kv } = place.subject.parts;
  await decodeText(place, numRows, warm);
  const before = runner.report(SLOT);
  using watch = new Watch();
  const upload = watch.cover(device.queue, ["writeBuffer"], writeBytes);
  const submit = watch.cover(device.queue, ["submit"]);
  const gather = watchStore(kv, watch);
  // Asking for a mapping blocks until the device is idle; see src/gpu/readback.ts.
  const wait = watch.cover(GPUBuffer.prototype, ["mapAsync"]);
  let runMs = 0;
  let longest = 0;
  const began = now();
  for (let step = 0; step < timed; step++) {
    const started = performance.now();
    await decodeText(place, numRows + warm + step, 1);
    const ms = performance.now() - started;
    runMs += ms;
    longest = Math.max(longest, ms);
    if ((step + 1) % settings.interval !== 0) continue;
    times.runMs.push(runMs / settings.interval);
    times.longestMs.push(longest);
    runMs = longest = 0;
  }
  times.moments.push(since(began, timed));
  times.waitMs.push(wait.ms / timed);
  times.submitMs.push(submit.ms / timed);
  times.uploadMs.push(upload.ms / timed);
  times.gatherMs.push(gather.ms / timed);
  times.writtenBytes = upload.bytes / timed;
  times.report = timedReport(before, runner.report(SLOT), warm, timed);
}

/** Reading rows out of host memory or files. */
function watchStore(kv: unknown, watch: Watch): Watched {
  const stored = kv instanceof TieredCache ? kv.offloaded(SLOT)?.stored : undefined;
  if (stored === undefined) return { ms: 0, bytes: 0 };
  return watch.cover(stored, ["gather", "readPart", "readParts"]);
}

/** Means over the timed steps alone, from those over the warm ones and over all. */
export function timedReport(
  before: KvReport | null,
  after: KvReport | null,
  warm: number,
  timed: number,
): TurnTimes["report"] {
  if (after === null) return null;
  const mean = (name: "bytesPerStep" | "residentShare" | "rowsPerStep") =>
    (after[name] * (warm + timed) - (before?.[name] ?? 0) * warm) / timed;
  return {
    bytesPerStep: mean("bytesPerStep"),
    residentShare: mean("residentShare"),
    rowsPerStep: mean("rowsPerStep"),
  };
}
