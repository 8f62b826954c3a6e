/**
 * What sequences cost below the device that are given up, or that fail: the page of `/metrics` has it
 * as that of the same steps in an answer that was not.
 */
import { DEFAULT_TIERS, type EngineStats, type GenerateRequest } from "../../src/engine/types.ts";
import type { KvRequest } from "../../src/butler/settings.ts";
import { createMetrics, type Metrics } from "../../src/observe/metrics/mod.ts";
import { assert } from "std-testing";
import { MemoryFiles } from "../kv/store/_memory_files.ts";
import { assertGrown, type Page, parsePage } from "../server/_page.ts";
import { openEngine, type TestEngine } from "./_engine.ts";
import { makeCalibration, offloadedModel, onDevice, textIds } from "./_offload.ts";
import { type Answer, request, run } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PATH = await offloadedModel();
const TEXT = textIds(190, 320);
const NUM_PROMPT = 150;
/** Tokens of a prefill chunk. */
const CHUNK = 64;
/** Decode steps after which something happens. */
const STEPS = 7;
const KV: KvRequest = {
  policy: "loki",
  sinks: 8,
  window: 16,
  budget: { rows: 24 },
  denseLayers: 0,
  recallEvery: 2,
};

/** Told of steps while they are the engine's. */
interface Taps {
  decoded?: (step: number, opened: TestEngine) => unknown;
  prefilled?: (chunk: number, opened: TestEngine) => unknown;
}

interface Rig extends AsyncDisposable {
  readonly opened: TestEngine;
  readonly files: MemoryFiles;
  taps: Taps;
}

async function openRig(): Promise<Rig> {
  let step = 0;
  let chunk = 0;
  const files = new MemoryFiles();
  const rig: { taps: Taps; opened?: TestEngine } = { taps: {} };
  const opened = await openEngine(
    PATH,
    {
      contextLength: 256,
      prefillChunk: CHUNK,
      calibration: CALIBRATION,
      tiers: { ...DEFAULT_TIERS, ...onDevice(4), hostBytes: 0, diskDir: "/spill" },
    },
    () => ({
      decoded: async () => void await rig.taps.decoded?.(++step, rig.opened!),
      prefilled: async () => void await rig.taps.prefilled?.(++chunk, rig.opened!),
    }),
    { files },
  );
  return Object.assign(rig, {
    opened,
    files,
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  });
}

/** Feeds so many tokens after the prompt as decoding would. */
function force({ opened }: Rig, numTokens: number, more: Partial<GenerateRequest> = {}) {
  const forcedIds = TEXT.slice(NUM_PROMPT, NUM_PROMPT + numTokens);
  const prompt = TEXT.slice(0, NUM_PROMPT);
  return run(opened.engine, request(prompt, numTokens, { forcedIds, kv: KV, ...more }));
}

const measure = () => createMetrics({ modelName: "tiny", version: "1" });

async function pageOf(metrics: Metrics, { opened }: Rig): Promise<Page> {
  return parsePage(await metrics.page(opened.engine));
}

/** A sample by its name without labels. */
function sample({ samples }: Page, name: string): number {
  const found = [...samples].filter(([key]) => key.replace(/\{.*/, "") === name);
  assert.equal(found.length, 1, name);
  return found[0]![1];
}

/** What follows from the steps alone. */
const COUNTERS = [
  "tokenbutler_kv_fetched_bytes_total",
  "tokenbutler_kv_stalled_steps_total",
  "tokenbutler_kv_wanted_rows_total",
  "tokenbutler_kv_resident_rows_total",
  "tokenbutler_recall_samples_total",
  "llamacpp:prompt_tokens_total",
  "llamacpp:n_decode_total",
  "vllm:prefix_cache_queries_total",
  "vllm:prefix_cache_hits_total",
];
/** From and to. */
const DIRECTIONS = [["device", "host"], ["host", "device"], ["host", "disk"], ["disk", "host"]];
/** The same of sequences that decoded. */
const HISTOGRAMS = [
  "tokenbutler_kv_resident_share",
  "tokenbutler_kv_rows_per_step",
  "tokenbutler_recall_mass",
  "tokenbutler_recall_overlap",
];

function figures(page: Page): Record<string, number> {
  const histograms = HISTOGRAMS.flatMap((name) => [`${name}_count`, `${name}_sum`]);
  return {
    ...Object.fromEntries([...COUNTERS, ...histograms].map((name) => [name, sample(page, name)])),
    ...moved(page),
  };
}

/** Bytes by direction. */
function moved({ samples }: Page): Record<string, number> {
  return Object.fromEntries(DIRECTIONS.map(([from, to]) => {
    const name = `tokenbutler_kv_moved_bytes_total{from="${from}",to="${to}",model_name="tiny"}`;
    return [name, samples.get(name)!];
  }));
}

/** The page after an answer of so many decode steps, and the answer. */
async function whole(): Promise<{ readonly page: Page; readonly answer: Answer }> {
  await using rig = await openRig();
  const answer = await force(rig, STEPS + 1);
  assert.equal(answer.reason, "length");
  return { page: await pageOf(measure(), rig), answer };
}

const WHOLE = await whole();

Deno.test("an answer is on the page as it says itself", () => {
  const { page, answer: { kv, promptTokens } } = WHOLE;
  const found = figures(page);
  assert.ok(kv!.bytesPerStep > 0 && kv!.residentShare < 1 && kv!.recall!.steps === 3);
  assert.equal(found["tokenbutler_kv_fetched_bytes_total"], kv!.bytesPerStep * STEPS);
  assert.equal(
    found["tokenbutler_kv_resident_rows_total"]! / found["tokenbutler_kv_wanted_rows_total"]!,
    kv!.residentShare,
  );
  assert.equal(found["tokenbutler_recall_samples_total"], kv!.recall!.steps);
  assert.equal(found["tokenbutler_recall_mass_sum"], kv!.recall!.mass);
  assert.equal(found["tokenbutler_recall_overlap_sum"], kv!.recall!.overlap);
  assert.equal(found["tokenbutler_kv_rows_per_step_sum"], kv!.rowsPerStep);
  assert.equal(found["tokenbutler_kv_resident_share_sum"], kv!.residentShare);
  assert.equal(found["llamacpp:prompt_tokens_total"], promptTokens);
  assert.equal(found["vllm:prefix_cache_queries_total"], NUM_PROMPT);
  assert.equal(found["tokenbutler_kv_stalled_steps_total"], STEPS);
  assert.ok(sample(page, "tokenbutler_kv_stall_seconds_total") > 0);
  assert.ok(sample(page, "llamacpp:prompt_seconds_total") > 0);
  const seconds = sample(page, "llamacpp:tokens_predicted_seconds_total");
  assert.equal(sample(page, "llamacpp:predicted_tokens_seconds"), (STEPS + 1) / seconds);
});

Deno.test("a stream that is cancelled in mid-decode is on the page with all its steps", async () => {
  await using rig = await openRig();
  rig.taps = { decoded: (step, { engine }) => void (step === STEPS && engine.cancel("left")) };
  const answer = await force(rig, 30, { id: "left" });
  assert.equal(answer.reason, "cancelled");
  assert.equal(answer.kv?.bytesPerStep, WHOLE.answer.kv!.bytesPerStep);
  const page = await pageOf(measure(), rig);
  assert.deepEqual(figures(page), figures(WHOLE.page));
  assert.ok(sample(page, "llamacpp:tokens_predicted_seconds_total") > 0);
});

Deno.test("a reader that leaves its stream is on the page too", async () => {
  await using rig = await openRig();
  const reached = Promise.withResolvers<void>();
  const gone = Promise.withResolvers<void>();
  rig.taps = {
    decoded(step) {
      if (step !== STEPS) return;
      reached.resolve();
      return gone.promise;
    },
  };
  const forcedIds = TEXT.slice(NUM_PROMPT);
  const prompt = TEXT.slice(0, NUM_PROMPT);
  let count = 0;
  const asked = request(prompt, forcedIds.length, { forcedIds, kv: KV });
  for await (const event of rig.opened.engine.generate(asked)) {
    if (event.type !== "token" || ++count < STEPS) continue;
    // The step that is under way comes to its end without a reader.
    await reached.promise;
    break;
  }
  gone.resolve();
  await until(rig, ({ runningSequences }) => runningSequences === 0);
  assert.deepEqual(figures(await pageOf(measure(), rig)), figures(WHOLE.page));
});

async function until({ opened }: Rig, holds: (stats: EngineStats) => boolean): Promise<void> {
  while (!holds(await opened.engine.stats())) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

Deno.test("a stream that is cancelled in mid-prefill is on the page with its chunks", async () => {
  await using rig = await openRig();
  rig.taps = { prefilled: (chunk, { engine }) => void (chunk === 2 && engine.cancel("left")) };
  const answer = await force(rig, 30, { id: "left" });
  assert.equal(answer.reason, "cancelled");
  const metrics = measure();
  const first = await pageOf(metrics, rig);
  assert.equal(sample(first, "llamacpp:prompt_tokens_total"), 2 * CHUNK);
  assert.equal(sample(first, "vllm:prefix_cache_queries_total"), NUM_PROMPT);
  assert.equal(sample(first, "vllm:prefix_cache_hits_total"), 0);
  assert.ok(sample(first, "llamacpp:prompt_seconds_total") > 0);
  assert.equal(sample(first, "tokenbutler_kv_rows_per_step_count"), 0);
  rig.taps = {};
  // What the first chunk left is found by the next one, and counts as found.
  const again = await force(rig, STEPS + 1);
  const second = await pageOf(metrics, rig);
  assertGrown(first, second);
  assert.ok(again.cachedTokens > 0);
  assert.equal(sample(second, "vllm:prefix_cache_hits_total"), again.cachedTokens);
  assert.equal(sample(second, "vllm:prefix_cache_queries_total"), 2 * NUM_PROMPT);
  assert.equal(sample(second, "llamacpp:prompt_tokens_total"), 2 * CHUNK + again.promptTokens);
});

Deno.test("a prompt that is not to be looked for is no query of the prefix cache", async () => {
  await using rig = await openRig();
  await force(rig, 1, { cachePrompt: false });
  const page = await pageOf(measure(), rig);
  assert.equal(sample(page, "vllm:prefix_cache_queries_total"), 0);
  assert.equal(sample(page, "llamacpp:prompt_tokens_total"), NUM_PROMPT);
});

Deno.test("an answer that fails is on the page with what it did before", async () => {
  await using rig = await openRig();
  rig.taps = { decoded: (step) => void (step === STEPS && (rig.files.faults.shortRead = true)) };
  const answer = await force(rig, 30);
  assert.match(answer.error?.message ?? "", /cannot be read back/);
  const found = figures(await pageOf(measure(), rig));
  const wanted = figures(WHOLE.page);
  for (const name of [...COUNTERS, ...Object.keys(moved(WHOLE.page))]) {
    assert.ok(found[name]! >= wanted[name]!, `${name}: ${found[name]} after ${wanted[name]}`);
  }
  assert.equal(found["llamacpp:n_decode_total"], STEPS + 1);
  for (const name of HISTOGRAMS) assert.equal(found[`${name}_count`], 1);
});

Deno.test("a step that fails as a whole is on the page with what it moved", async () => {
  await using rig = await openRig();
  rig.taps = {
    decoded(step, { parts: { runner: { steps } } }) {
      if (step !== STEPS - 1) return;
      // The next one has fetched everything when its token cannot be read.
      steps.read = () => Promise.reject(new Error("nothing can be read"));
    },
  };
  const answer = await force(rig, 30);
  assert.equal(answer.error?.message, "nothing can be read");
  const page = await pageOf(measure(), rig);
  const decodes = { "llamacpp:n_decode_total": STEPS - 1 };
  assert.deepEqual(figures(page), { ...figures(WHOLE.page), ...decodes });
});

Deno.test("counters move while a stream runs, a scrape after the other", async () => {
  await using rig = await openRig();
  const metrics = measure();
  const pages: Page[] = [];
  const look = async () => void pages.push(await pageOf(metrics, rig));
  rig.taps = { prefilled: look, decoded: look };
  await force(rig, STEPS + 1);
  await look();
  assert.equal(pages.length, 3 + STEPS + 1);
  pages.slice(1).forEach((page, before) => assertGrown(pages[before]!, page));
  const of = (name: string) => pages.map((page) => sample(page, name));
  // A chunk counts when it is over, which is after the look at it.
  assert.deepEqual(of("llamacpp:prompt_tokens_total").slice(0, 4), [0, 64, 128, 150]);
  const fetched = of("tokenbutler_kv_fetched_bytes_total");
  assert.equal(fetched[2], 0);
  // With each step; what they sum up to is what the answer says at its end.
  for (let step = 1; step <= STEPS; step++) assert.ok(fetched[2 + step]! > fetched[1 + step]!);
  assert.deepEqual(of("tokenbutler_recall_samples_total").slice(2), [0, 0, 1, 1, 2, 2, 3, 3, 3]);
  assert.ok(of("llamacpp:tokens_predicted_seconds_total")[6]! > 0);
  assert.deepEqual(figures(pages.at(-1)!), figures(WHOLE.page));
});

Deno.test("an engine that takes another one's place adds to its counters", async () => {
  const metrics = measure();
  await using first = await openRig();
  await force(first, STEPS + 1);
  const before = await pageOf(metrics, first);
  await using second = await openRig();
  // It has done more than the first when it is asked for the first time.
  await force(second, STEPS + 1);
  await force(second, STEPS + 1, { cachePrompt: false });
  const alone = await pageOf(measure(), second);
  const after = await pageOf(metrics, second);
  assertGrown(before, after);
  const one = figures(before);
  const other = figures(alone);
  for (const [name, value] of Object.entries(figures(after))) {
    const wanted = one[name]! + other[name]!;
    assert.ok(Math.abs(value - wanted) < 1e-9 * wanted || value === wanted, name);
  }
  // What was asked of the first comes late.
  await pageOf(metrics, first);
  assert.deepEqual(figures(await pageOf(metrics, second)), figures(after));
});
