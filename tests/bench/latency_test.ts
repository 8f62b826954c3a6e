import { assert } from "std-testing";
import {
  caseLines,
  growthNotes,
  latencyCharts,
  type Measured,
} from "../../bench/_latency_report.ts";
import { splitParts, Watch, writeBytes } from "../../bench/_breakdown.ts";
import { ceilingMs, type CeilingRates, selectionWork } from "../../bench/_ceiling.ts";
import { latencyFlags, policyCases } from "../../bench/_latency_cases.ts";
import { timedReport, turnSteps, TurnTimes } from "../../bench/_latency_turn.ts";
import type { RecordedDispatch } from "../../bench/_recorder.ts";
import type { Subject } from "../../bench/_subject.ts";
import { type KvReport, type KvRequest, resolveKv } from "../../src/butler/settings.ts";
import type { ModelConfig } from "../../src/model/types.ts";

const CONFIG = { numLayers: 3, numHeads: 4, numKvHeads: 2, headDim: 8 } as ModelConfig;
const SHAPES = [{ role: "head", type: "F32", rows: 1000, cols: 100, count: 1 }] as const;
/** A billion operations, or bytes, a millisecond: what a part needs can be read off. */
const RATES: CeilingRates = {
  stream: 1000,
  matvec: new Map([["F32", 1000]]),
  product: 1000,
  upload: 1000,
  software: true,
};

function settings(request: KvRequest) {
  return resolveKv({ sinks: 4, window: 6, budget: { rows: 10 }, ...request }, CONFIG, {
    fits: true,
    canProject: true,
    canPredict: true,
  }).settings;
}

const of = (request: KvRequest, n: number, rowsPerStep: number | null = null) => ({
  config: CONFIG,
  kvType: "f16" as const,
  settings: settings(request),
  n,
  rowsPerStep,
});

Deno.test("selectionWork() counts what a step attends to and scores", () => {
  const row = { flops: 4 * 4 * 8, bytes: 2 * 2 * 8 * 2 };
  const rows = (count: number) => ({ flops: count * row.flops, bytes: count * row.bytes });
  assert.deepEqual(selectionWork(of({ policy: "dense" }, 100)), {
    denseAttention: rows(300),
    attention: rows(0),
    scores: rows(0),
  });
  // Layer 0 is dense; two layers select 20 of 100 rows out of 90 candidates, every other step.
  const loki = selectionWork(of({ policy: "loki", interval: 2 }, 100));
  assert.deepEqual(loki, {
    denseAttention: rows(100),
    attention: rows(40),
    scores: { flops: 2 * 90 * 4 * 32 / 2, bytes: 2 * 90 * 2 * 32 / 2 },
  });
  // What was really attended to counts more.
  assert.deepEqual(selectionWork(of({ policy: "loki" }, 100, 25)).attention, rows(50));
  // 6 pages of 16 before the newest one; two dense layers.
  assert.deepEqual(selectionWork(of({ policy: "quest" }, 100)).scores, {
    flops: 6 * 4 * 32,
    bytes: 6 * 2 * 32,
  });
  assert.deepEqual(selectionWork(of({ policy: "snapkv" }, 100)).scores, rows(0));
  // Few rows: everything is attended to, nothing scored.
  assert.deepEqual(selectionWork(of({ policy: "oracle" }, 15)), {
    denseAttention: rows(45),
    attention: rows(0),
    scores: rows(0),
  });
});

Deno.test("ceilingMs() takes the slower of bytes and operations, and adds or hides the upload", () => {
  const dense = of({ policy: "dense" }, 1000);
  // The head reads 400,000 bytes; attention has 384,000 operations and 192,000 bytes.
  assert.ok(Math.abs(ceilingMs(dense, SHAPES, RATES, 0) - 0.784e-3) < 1e-12);
  assert.ok(Math.abs(ceilingMs(dense, SHAPES, RATES, 1e6) - 1.784e-3) < 1e-12);
  const gpu = { ...RATES, software: false };
  assert.ok(Math.abs(ceilingMs(dense, SHAPES, gpu, 1e6) - 1e-3) < 1e-12);
});

Deno.test("splitParts() tells layers apart", () => {
  const layer = ["rms_norm", "matmul_store", "rope", "attention_lanes", "attention_merge"];
  const rest = ["matmul_add", "rms_norm", "matmul_swiglu", "matmul_add"];
  const scored = [
    "rms_norm",
    "matmul_store",
    "rope",
    "importance_project_d64",
    "score_projected_g3",
    "select_row",
    "kv_scatter_d64",
    "attention_rows",
  ];
  const step = ["embed_Q8_0", ...layer, ...rest, ...scored, ...rest];
  const end = ["rms_norm", "matmul_Q8_0", "sample_scan"];
  const labels = [...step, ...end, ...step, ...end];
  const parts = splitParts(
    labels.map((label) => ({ label }) as RecordedDispatch),
    [{ role: "dense" }, { role: "selected" }],
  );
  const names = (part: Parameters<typeof parts.get>[0]) =>
    parts.get(part)!.map(({ label }) => label);
  const twice = (...list: string[]) => [...list, ...list];
  assert.deepEqual(names("denseAttention"), twice("attention_lanes", "attention_merge"));
  assert.deepEqual(names("attention"), twice("attention_rows"));
  assert.deepEqual(names("scores"), twice("importance_project_d64", "score_projected_g3"));
  assert.deepEqual(names("choice"), twice("select_row"));
  assert.deepEqual(names("rowCopies"), twice("kv_scatter_d64"));
  const total = [...parts.values()].reduce((sum, list) => sum + list.length, 0);
  assert.equal(total, labels.length);
});

Deno.test("Watch notes calls and leaves no trace", () => {
  class Queue {
    readonly calls: number[] = [];
    write(_to: string, value: number): number {
      this.calls.push(value);
      if (value < 0) throw new RangeError("negative");
      return value * 2;
    }
  }
  const queue = new Queue();
  {
    using watch = new Watch();
    const seen = watch.cover(queue, ["write"], ([, value]) => Math.abs(Number(value)));
    assert.equal(queue.write("a", 3), 6);
    assert.throws(() => queue.write("a", -4), RangeError);
    assert.equal(seen.bytes, 7);
    assert.ok(seen.ms >= 0);
  }
  assert.equal(Object.hasOwn(queue, "write"), false);
  queue.write("a", 1);
  assert.deepEqual(queue.calls, [3, -4, 1]);
  const words = new Uint32Array(10);
  assert.equal(writeBytes([null, 0, words]), 40);
  assert.equal(writeBytes([null, 0, words, 3]), 28);
  assert.equal(writeBytes([null, 0, words, 3, 2]), 8);
  assert.equal(writeBytes([null, 0, words.buffer, 8]), 32);
});

Deno.test("turns are whole runs between selections, and reports are of their timed steps", () => {
  assert.deepEqual(turnSteps(1, 8, 4), { warm: 4, timed: 8 });
  assert.deepEqual(turnSteps(8, 9, 4), { warm: 16, timed: 16 });
  assert.deepEqual(turnSteps(16, 1, 100), { warm: 112, timed: 16 });
  const report = (rowsPerStep: number) =>
    ({ rowsPerStep, bytesPerStep: 0, residentShare: 1 }) as KvReport;
  // 4 steps of 10, then 8 of 16: 14 in the mean.
  assert.equal(timedReport(report(10), report(14), 4, 8)!.rowsPerStep, 16);
  assert.equal(timedReport(null, null, 4, 8), null);
});

Deno.test("policyCases() gives an interval to those that select again", () => {
  assert.deepEqual(policyCases(["dense", "loki", "snapkv"], [1, 8]), [
    { policy: "dense", interval: 1 },
    { policy: "loki", interval: 1 },
    { policy: "loki", interval: 8 },
    { policy: "snapkv", interval: 1 },
  ]);
});

Deno.test("lists of lengths and of names are read from flags", () => {
  const { contexts, policies } = latencyFlags;
  assert.deepEqual(contexts.schema!.parse("1k,100,128K"), [1024, 100, 131072]);
  for (const wrong of ["", "1,", "k", "0", "2048k", "1.5k"]) {
    assert.equal(contexts.schema!.safeParse(wrong).success, false, wrong);
  }
  assert.deepEqual(policies.schema!.parse("loki,dense"), ["loki", "dense"]);
  assert.equal(policies.schema!.safeParse("loki,dance").success, false);
});

function measured(
  policy: "dense" | "loki",
  interval: number,
  context: number,
  ms: readonly number[],
): Measured {
  const times = new TurnTimes();
  times.runMs.push(...ms);
  times.longestMs.push(Math.max(...ms));
  times.waitMs.push(28);
  times.submitMs.push(2);
  times.uploadMs.push(1);
  times.gatherMs.push(1.5);
  times.moments.push({ wallMs: 1, cpuMs: policy === "dense" ? 6 : 4 }, { wallMs: 1, cpuMs: 9 });
  const parts = {
    weights: 1,
    attention: 2,
    denseAttention: context / 100,
    scores: 0,
    choice: 0,
    rowCopies: 0,
  };
  return {
    place: "device",
    policy,
    settings: settings({ policy, interval }),
    context,
    rows: context > 500 ? "repeated" : "prefilled",
    times,
    parts,
    poolBytes: null,
  };
}

Deno.test("caseLines(), growthNotes() and latencyCharts() say what was measured", () => {
  const subject = {
    config: CONFIG,
    shapes: SHAPES,
    parts: { info: { kv: { type: "f16", bytesPerToken: 192 }, adapter: { software: true } } },
  } as unknown as Subject;
  const lines = [100, 1000].flatMap((context) =>
    caseLines(
      [
        measured("dense", 1, context, [context, context + 20, context + 10]),
        measured("loki", 8, context, [50]),
      ],
      subject,
      RATES,
    )
  );
  const [dense, loki] = lines;
  assert.equal(dense!["ms"], 110);
  assert.equal(dense!["msMin"], 100);
  assert.equal(dense!["timesDense"], 1);
  assert.equal(loki!["timesDense"], 2.2);
  assert.equal(loki!["timesDenseByCpuTime"], 1.5);
  assert.equal(loki!["hostMs"], 50 - 28 - 2 - 1 - 1.5);
  assert.equal(loki!["restMs"], 30 - 4);
  assert.ok(Number(loki!["ceilingTimesDense"]) > 1);
  const none = caseLines([measured("loki", 8, 100, [50])], subject, null);
  assert.deepEqual([none[0]!["ceilingMs"], none[0]!["timesDense"]], [null, null]);
  const notes = growthNotes(lines);
  assert.equal(notes.length, 2);
  assert.match(notes[0]!, /^device, dense: a step at 1000 takes 9\.18x as long as at 100$/);
  // 50 less 1 and less 10 of dense attention.
  assert.match(notes[1]!, /^device, loki every 8: .* 1x as long as at 100, 0\.816x without/);
  const charts = latencyCharts(lines, { device: "D", model: "M", kv: "f16" }, "abc", [1, 8]);
  assert.equal(charts.length, 1);
  assert.deepEqual(charts[0]!.notes, [
    "D, M, KV f16, commit abc",
    "rows of contexts from 1000 on are repeated",
  ]);
  assert.deepEqual(charts[0]!.series.map(({ name, points }) => [name, points]), [
    ["dense", [[100, 110], [1000, 1010]]],
    ["loki every 8", [[100, 50], [1000, 50]]],
  ]);
});
