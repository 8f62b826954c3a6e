import { assert } from "std-testing";
import { compareRuns, parseRun } from "../../bench/compare.ts";
import type { RecordedDispatch } from "../../bench/_recorder.ts";
import { table } from "../../bench/_report.ts";
import { rolesOf } from "../../bench/_roles.ts";
import { meanError, round, summarize } from "../../bench/_stats.ts";
import { stepWork, totalWork } from "../../bench/_work.ts";
import type { ModelConfig } from "../../src/model/types.ts";

Deno.test("summarize() gives nearest-rank percentiles", () => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
  assert.deepEqual(summarize(hundred), {
    min: 1,
    median: 50,
    mean: 50.5,
    p95: 95,
    p99: 99,
    count: 100,
  });
  assert.deepEqual(summarize([7]), {
    min: 7,
    median: 7,
    mean: 7,
    p95: 7,
    p99: 7,
    count: 1,
  });
  assert.throws(() => summarize([]), RangeError);
});

Deno.test("meanError() is the deviation over the root of the count", () => {
  // Deviation of 1, 2, 3, 4 with count - 1: the root of 5 / 3.
  assert.ok(Math.abs(meanError([1, 2, 3, 4]) - Math.sqrt(5 / 3) / 2) < 1e-12);
  assert.equal(meanError([7, 7]), 0);
  assert.ok(!Number.isFinite(meanError([7])));
});

Deno.test("round() keeps significant digits", () => {
  assert.equal(round(123456), 123500);
  assert.equal(round(0.000123456, 2), 0.00012);
});

Deno.test("table() puts numbers to the right and fills what is missing", () => {
  const lines = table([{ name: "a", ms: 1.5 }, { name: "bcd", ms: 12, note: null }]);
  assert.deepEqual(lines, ["name   ms  note", "a     1.5", "bcd    12"]);
});

function dispatches(labels: readonly string[]): RecordedDispatch[] {
  return labels.map((label) => ({ label }) as RecordedDispatch);
}

Deno.test("every kernel of the engine has a part in a step", () => {
  const names = [...Deno.readDirSync(new URL("../../shaders/", import.meta.url))]
    // Those of training belong to no step.
    .filter(({ name }) => name.endsWith(".wgsl") && !name.startsWith("train_"))
    .map(({ name }) => name.replace(".wgsl", "_wg64"));
  assert.ok(names.length > 20);
  for (const name of names) assert.equal(rolesOf(dispatches([name])).length, 1, name);
});

Deno.test("rolesOf() tells products apart by their neighbours", () => {
  const layer = [
    "rms_norm_wg8",
    "matmul_Q4_1_store",
    "rope_d64",
    "attention_d64",
    "attention_merge_d64",
    "matmul_Q4_1_add",
    "rms_norm_wg8",
    "matmul_Q4_1_swiglu",
    "matmul_Q4_1_add",
  ];
  const labels = ["embed_Q8_0", ...layer, ...layer, "rms_norm_wg8", "matmul_Q8_0", "sample_scan"];
  const roles = [
    "norms",
    "qkv",
    "rope + cache",
    "attention",
    "attention merge",
    "attention out",
    "norms",
    "gate/up",
    "down",
  ];
  assert.deepEqual(rolesOf(dispatches(labels)), [
    "embedding",
    ...roles,
    ...roles,
    "norms",
    "head",
    "sampler",
  ]);
  // A layer whose gate and up are two products, and a step without a head.
  const apart = [...layer.slice(0, 7), "matmul_store", "matmul_gated", "matmul_add"];
  assert.deepEqual(rolesOf(dispatches(apart)).slice(-3), ["gate/up", "gate/up", "down"]);
  // A step of one token, whose products do the norms between them.
  const fused = layer.filter((label) => !label.startsWith("rms_norm"))
    .map((label) => label.endsWith("_add") ? `${label}_norm_out` : `${label}_norm_in`);
  const oneToken = [
    ...layer.slice(0, 2),
    ...fused.slice(1),
    ...fused.slice(0, -1),
    ...layer.slice(-1),
  ];
  const fusedRoles = roles.filter((role) => role !== "norms");
  assert.deepEqual(
    rolesOf(dispatches([...oneToken, "rms_norm_wg8", "matmul_Q8_0", "sample_scan"])),
    ["norms", ...fusedRoles, ...fusedRoles, "norms", "head", "sampler"],
  );
  assert.throws(() => rolesOf(dispatches(["rms_norm", "unheard_of"])), RangeError);
});

Deno.test("stepWork() counts operations and bytes once each", () => {
  const config = { numLayers: 2, numHeads: 4, numKvHeads: 2, headDim: 8 } as ModelConfig;
  const shapes = [
    { role: "qkv", type: "Q4_1", rows: 64, cols: 32, count: 2 },
    { role: "head", type: "F32", rows: 100, cols: 32, count: 1 },
  ] as const;
  // Three rows of a prompt at its start, of which the last makes logits.
  const work = stepWork(config, shapes, "f16", [1, 2, 3], 1, 3);
  assert.deepEqual(work.get("qkv"), { flops: 2 * 64 * 32 * 2 * 3, bytes: 64 * 20 * 2 });
  assert.deepEqual(work.get("head"), { flops: 2 * 100 * 32, bytes: 100 * 32 * 4 });
  assert.deepEqual(work.get("attention"), {
    flops: 4 * 2 * 4 * 8 * 6,
    bytes: 3 * (2 * 2 * 2 * 8 * 2),
  });
  const total = totalWork(work);
  assert.equal(total.flops, 24576 + 6400 + 1536);
});

Deno.test("compareRuns() puts equal cases side by side", () => {
  const line = (entry: Record<string, unknown>) => `${JSON.stringify(entry)}\n`;
  const before = parseRun(
    line({ bench: "decode", context: 512, ms: 60, commit: "a" }) +
      line({ bench: "decode", context: 2048, ms: 90, commit: "a" }) + "\n",
    "before",
  );
  const after = parseRun(line({ bench: "decode", context: 512, ms: 40, commit: "b" }), "after");
  assert.deepEqual(compareRuns(before, after), [
    { case: "decode 512", "ms before": 60, "ms after": 40, "ms gain": 1.5 },
  ]);
  assert.throws(() => parseRun("{}\n[1]\n", "broken"), /broken, line 2/);
  assert.throws(() => parseRun("no JSON", "broken"), /broken, line 1/);
});
