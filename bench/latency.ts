/**
 * How long does a token take, by length of context, policy and interval, with all rows on the device
 * and with most of them on the host? Where does the time go, and what would the adapter allow?
 *
 * Run: `./run bench latency`
 *
 * @module
 */
import { CommandError } from "../src/cli/command.ts";
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import type { KvRequest } from "../src/butler/settings.ts";
import { kvRequest } from "../src/cli/kv_flags.ts";
import { openDevice } from "../src/gpu/device.ts";
import { Kernels } from "../src/gpu/kernels.ts";
import { Readback } from "../src/gpu/readback.ts";
import { BLOCK_ROWS } from "../src/kv/slab_pool.ts";
import type { CeilingRates } from "./_ceiling.ts";
import { lineCharts } from "../src/report/chart.ts";
import type { Moment } from "./_clock.ts";
import { commit } from "../src/report/commit.ts";
import { defineBenchmark } from "./_define.ts";
import { defaultLists, latencyFlags, type PolicyCase, policyCases } from "./_latency_cases.ts";
import {
  openDevicePlace,
  openOffloadPlace,
  type Place,
  poolBytes,
  settingsOf,
  SLOT,
} from "./_latency_place.ts";
import { caseLines, growthNotes, latencyCharts } from "./_latency_report.ts";
import { type LatencyPlan, measureContext, mostSteps } from "./_latency_run.ts";
import { loopNote, measureRates, oneRowShapes, ratesNotes } from "./_rates.ts";
import { Report } from "./_report.ts";
import { type CapturedRows, captureRows } from "./_rows.ts";
import { round } from "./_stats.ts";
import { fill, type Subject, textIds } from "./_subject.ts";
import { uploadRate } from "./_upload_rate.ts";

type LatencySettings = Settings<typeof latencyFlags>;

/** The rates of the adapter, for the ceilings, and lines about them. */
async function adapterRates(
  kernels: Kernels,
  { shapes }: Subject,
  rounds: number,
): Promise<{ rates: CeilingRates | null; notes: string[] }> {
  if (rounds === 0) return { rates: null, notes: [] };
  using readback = await Readback.create(kernels.device, 16);
  const measured = await measureRates(kernels, readback, rounds, oneRowShapes(shapes));
  const upload = await uploadRate(kernels, readback, rounds);
  return {
    rates: { ...measured.wall, upload, software: kernels.caps.software },
    notes: [...ratesNotes(measured), `large writes to the device: ${round(upload, 3)} GB/s`],
  };
}

/** Prefills real text and reads its rows back. */
async function prefilled(place: Place, numRows: number): Promise<CapturedRows> {
  const { subject } = place;
  const numBlocks = Math.max(1, Math.floor(numRows / BLOCK_ROWS));
  const whole = Math.min(numBlocks * BLOCK_ROWS, subject.parts.info.contextLength);
  await fill(subject, SLOT, textIds(subject, 0, whole));
  return await captureRows(subject.parts, subject.config, SLOT, Math.floor(whole / BLOCK_ROWS));
}

function writeFile(path: string, content: string, flag: string): void {
  try {
    Deno.writeTextFileSync(path, content);
  } catch (error) {
    throw new CommandError(`${flag}: cannot write ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

async function measure(settings: LatencySettings, io: CliIo): Promise<void> {
  const { jsonFile, svg, places: wanted } = settings;
  if (jsonFile !== null) writeFile(jsonFile, "", "--json-file");
  if (svg !== null) writeFile(svg, "", "--svg");
  const { device, caps } = await openDevice();
  const lists = defaultLists(caps.software);
  const intervals = settings.intervals ?? lists.intervals;
  const plan: LatencyPlan = {
    base: kvRequest(settings),
    cases: policyCases(settings.policies ?? lists.policies, intervals),
    steps: settings.steps,
    warm: settings.warm,
    rounds: settings.rounds,
    breakdown: settings.breakdown ?? true,
  };
  const contexts = (settings.contexts ?? lists.contexts).toSorted((a, b) => a - b);
  const longest = contexts.at(-1)!;
  const steps = mostSteps(plan);
  // Rows are prefilled on it also where only the other place is measured.
  const onDevice = wanted.includes("device") ? longest + steps : settings.prefill + BLOCK_ROWS;
  using place = await openDevicePlace(settings, io, onDevice);
  const { subject } = place;
  const report = new Report(io, "latency", subject.common);
  const rows = await prefilled(place, Math.min(settings.prefill, longest));
  const kernels = new Kernels(device, caps);
  const { rates, notes } = await adapterRates(kernels, subject, settings.rateRounds);
  const loops: Moment[] = [];
  const skipped: string[] = [];
  for (const context of contexts) {
    using here = new DisposableStack();
    const places: Place[] = [];
    if (wanted.includes("device")) {
      if (context + steps <= subject.parts.info.contextLength) places.push(place);
      else skipped.push(`device at ${context}: the device has no room for so many rows`);
    }
    if (wanted.includes("offload")) {
      const other = await offloadPlace(settings, plan.cases, io, subject, context + steps);
      if (typeof other === "string") skipped.push(`offload at ${context}: ${other}`);
      else places.push(here.use(other));
    }
    const result = await measureContext(places, rows, context, plan);
    loops.push(...result.loops);
    skipped.push(...result.skipped);
    for (const line of caseLines(result.measured, subject, rates)) report.add(line);
  }
  device.destroy();
  finish(report, [...notes, ...footnotes(loops, skipped)], settings, subject, intervals);
}

/** The engine with a working set, as large as the measured cases like it. */
async function offloadPlace(
  settings: LatencySettings,
  cases: readonly PolicyCase[],
  io: CliIo,
  subject: Subject,
  maxRows: number,
): Promise<Place | string> {
  const { info } = subject.parts;
  const resolved = (over: KvRequest) => settingsOf(kvRequest(settings), over, subject);
  const selection = resolved({ policy: info.kv.canProject ? "loki" : "oracle" });
  const bytes = settings.kvDevice ?? poolBytes(
    { numRows: maxRows, maxRows, settings: selection },
    cases.flatMap((of) => {
      try {
        return [resolved({ ...of })];
      } catch {
        return []; // What cannot be measured is named where the cases run.
      }
    }),
    subject.config,
    info.kv.type,
  );
  if (bytes === null) return "the working set of a selection would hold all of it";
  return await openOffloadPlace(settings, io, bytes, maxRows);
}

function footnotes(loops: readonly Moment[], skipped: readonly string[]): string[] {
  return [
    "ms: the mean of the steps from one selection to the next; of all of those the median.",
    "rows repeated: real rows again and again, keys turned to their new positions; what the model " +
    "says there means nothing, so no quality is reported.",
    "ceilingMs: what operations and bytes allow at the adapter's best rates; the choice of rows is " +
    "not counted.",
    "Parts on the device (weights to rowCopies) are their dispatches alone, sent again. A step is " +
    "gather, upload, submit, wait and host (other JavaScript); rest is what of submit and wait no part " +
    "accounts for: copies, what uploads take on the device, gaps; less than nothing where both worked at once.",
    ...new Set(skipped).values().map((what) => `not measured: ${what}`),
    ...(loops.length === 0
      ? []
      : [loopNote(loops.reduce((a, b) => (a.wallMs < b.wallMs ? a : b)))]),
  ];
}

function finish(
  report: Report,
  notes: readonly string[],
  { jsonFile, svg }: LatencySettings,
  { common }: Subject,
  intervals: readonly number[],
): void {
  const all = [...growthNotes(report.lines), ...notes];
  report.finish(all);
  if (jsonFile !== null) {
    const content = {
      bench: "latency",
      ...common,
      commit: commit(),
      cases: report.lines,
      notes: all,
    };
    writeFile(jsonFile, `${JSON.stringify(content, null, 2)}\n`, "--json-file");
  }
  if (svg === null) return;
  const charts = latencyCharts(report.lines, common, commit(), intervals);
  if (charts.length === 0) throw new CommandError("--svg: there is nothing to draw");
  writeFile(svg, lineCharts(charts), "--svg");
}

export const { command, run } = defineBenchmark({
  name: "latency",
  summary: "milliseconds a token by context, policy, interval and place of the rows",
  notes: [
    "--policy and --interval give way to --policies and --intervals; the other flags of the KV " +
    "cache hold for every case.",
  ],
  flags: latencyFlags,
  measure,
});
