/** What `bench latency` says of a case, and its curves. @module */
import type { KvSettings, PolicyName } from "../src/butler/settings.ts";
import { POLICY_NAMES } from "../src/butler/settings.ts";
import type { DevicePart } from "./_breakdown.ts";
import { type CeilingCase, ceilingMs, type CeilingRates } from "./_ceiling.ts";
import type { LineChart, Series } from "../src/report/chart.ts";
import { PLACE_NAMES, type PlaceName } from "./_latency_place.ts";
import type { TurnTimes } from "./_latency_turn.ts";
import { policyCases } from "./_latency_cases.ts";
import type { Case, CaseValue } from "./_report.ts";
import { round, summarize } from "./_stats.ts";
import type { Subject } from "./_subject.ts";

/** A case that was measured. */
export interface Measured {
  readonly place: PlaceName;
  readonly policy: PolicyName;
  readonly settings: KvSettings;
  readonly context: number;
  /** The rows are those of a prompt, or the same repeated. */
  readonly rows: "prefilled" | "repeated";
  readonly times: TurnTimes;
  readonly parts: Readonly<Record<DevicePart, number>> | null;
  /** Bytes of rows on the device at most; null: all of them. */
  readonly poolBytes: number | null;
}

/** Figures of a case by which others are compared with it. */
interface Figures {
  readonly ms: number;
  readonly ceilingMs: number | null;
  /** On an adapter that is a CPU; it hardly depends on what else runs. */
  readonly cpuMs: number | null;
}

/**
 * Turns what was measured at one context into the lines of the report.
 *
 * @param rates Null: no ceilings.
 */
export function caseLines(
  measured: readonly Measured[],
  { config, shapes, parts: { info } }: Pick<Subject, "config" | "shapes" | "parts">,
  rates: CeilingRates | null,
): Case[] {
  const figures = measured.map((one): Figures => {
    const { context, settings, times, poolBytes } = one;
    const of: CeilingCase = {
      config,
      kvType: info.kv.type,
      settings,
      n: context + 1,
      rowsPerStep: times.report?.rowsPerStep ?? null,
    };
    const dense = settings.policy === "dense";
    const uploadBytes = poolBytes === null
      ? 0
      : dense
      ? Math.max(0, context * info.kv.bytesPerToken - poolBytes)
      : times.report?.bytesPerStep ?? 0;
    return {
      ms: summarize(times.runMs).median,
      cpuMs: info.adapter.software ? cpuMsOf(times) : null,
      ceilingMs: rates === null ? null : ceilingMs(of, shapes, rates, uploadBytes),
    };
  });
  return measured.map((one, index) => {
    const base = measured.findIndex(({ place, policy }) =>
      place === one.place && policy === "dense"
    );
    return caseLine(one, figures[index]!, figures[base] ?? null);
  });
}

/** Least processor time of a step, in the mean of a turn. */
function cpuMsOf({ moments }: TurnTimes): number {
  return Math.min(...moments.map(({ cpuMs }) => cpuMs));
}

function caseLine(
  { place, policy, settings, context, rows, times, parts }: Measured,
  { ms, ceilingMs }: Figures,
  dense: Figures | null,
): Case {
  const middle = (list: readonly number[]) => list.length === 0 ? null : summarize(list).median;
  const { report } = times;
  const cpuMsMin = cpuMsOf(times);
  const upload = middle(times.uploadMs);
  const gather = middle(times.gatherMs);
  const wait = middle(times.waitMs);
  const submit = middle(times.submitMs);
  const device = parts === null ? null : Object.values(parts).reduce((sum, part) => sum + part, 0);
  return {
    context,
    rows,
    place,
    policy,
    interval: settings.interval,
    ms,
    msMin: summarize(times.runMs).min,
    msLongest: middle(times.longestMs),
    cpuMsMin,
    timesDense: dense === null ? null : dense.ms / ms,
    timesDenseByCpuTime: dense?.cpuMs == null ? null : dense.cpuMs / cpuMsMin,
    ceilingMs,
    ceilingTimesDense: ceilingMs === null || dense?.ceilingMs == null
      ? null
      : dense.ceilingMs / ceilingMs,
    rowsPerStep: report?.rowsPerStep ?? null,
    bytesPerStep: report?.bytesPerStep ?? null,
    writtenBytes: times.writtenBytes,
    residentShare: report?.residentShare ?? null,
    weightsMs: parts?.weights ?? null,
    denseAttentionMs: parts?.denseAttention ?? null,
    attentionMs: parts?.attention ?? null,
    scoresMs: parts?.scores ?? null,
    choiceMs: parts?.choice ?? null,
    rowCopiesMs: parts?.rowCopies ?? null,
    gatherMs: gather,
    uploadMs: upload,
    hostMs: Math.max(
      0,
      [wait, submit, gather, upload].reduce<number>((left, part) => left - (part ?? 0), ms),
    ),
    submitMs: submit,
    waitMs: wait,
    restMs: device === null || wait === null ? null : wait + (submit ?? 0) - device,
  };
}

/** How much a step grows from the first context to the last, and what fixed parts leave of that. */
export function growthNotes(lines: readonly Case[]): string[] {
  const groups = Map.groupBy(
    lines,
    ({ place, policy, interval }) => `${place}, ${caseName(policy, interval)}`,
  );
  const number = (line: Case, name: string) => Number(line[name] ?? NaN);
  return [...groups].flatMap(([name, group]) => {
    const sorted = group.toSorted((a, b) => number(a, "context") - number(b, "context"));
    const [first, last] = [sorted[0]!, sorted.at(-1)!];
    if (first === last) return [];
    const grown = number(last, "ms") / number(first, "ms");
    const fixed = (line: Case) =>
      number(line, "ms") -
      ["denseAttentionMs", "scoresMs", "choiceMs"].reduce((sum, key) => sum + number(line, key), 0);
    const without = fixed(last) / fixed(first);
    const rest = Number.isFinite(without) && first["policy"] !== "dense"
      ? `, ${round(without, 3)}x without dense layers, scores and choice`
      : "";
    return [
      `${name}: a step at ${last["context"]} takes ${round(grown, 3)}x as long as at ` +
      `${first["context"]}${rest}`,
    ];
  });
}

/** A policy and, where it has one, its interval. */
function caseName(policy: CaseValue | undefined, interval: CaseValue | undefined): string {
  const has = policyCases(POLICY_NAMES.filter((name) => name === policy), [2]);
  return has[0]?.interval === 2 ? `${policy} every ${interval}` : `${policy}`;
}

/** Curves of milliseconds against context: a chart for each place. */
export function latencyCharts(
  lines: readonly Case[],
  common: Case,
  commit: string,
  intervals: readonly number[],
): LineChart[] {
  const head = `${common["device"]}, ${common["model"]}, KV ${common["kv"]}, commit ${commit}`;
  const repeated = lines.filter(({ rows }) => rows === "repeated").map(({ context }) => context);
  const notes = [head];
  if (repeated.length > 0) {
    notes.push(`rows of contexts from ${Math.min(...repeated.map(Number))} on are repeated`);
  }
  return PLACE_NAMES.flatMap((place) => {
    const own = lines.filter((line) => line["place"] === place);
    if (own.length === 0) return [];
    const groups = Map.groupBy(own, ({ policy, interval }) => `${policy} ${interval}`);
    const series = [...groups.values()].map((group): Series => {
      const { policy, interval } = group[0]!;
      const mark = Math.max(0, intervals.indexOf(Number(interval)));
      return {
        name: caseName(policy, interval),
        points: group.map((line) => [Number(line["context"]), Number(line["ms"])] as const)
          .toSorted(([a], [b]) => a - b),
        color: POLICY_NAMES.findIndex((name) => name === policy),
        mark,
        dashed: mark > 0,
      };
    });
    const where = place === "device" ? "all rows on the device" : "rows in host memory";
    return [{
      title: `Milliseconds a token by context, ${where}`,
      notes,
      x: {
        label: "context (tokens)",
        scale: "log2",
        format: (value) => value >= 1024 ? `${round(value / 1024, 3)}k` : String(value),
      },
      y: { label: "ms a token", scale: "log10" },
      series,
    }];
  });
}
