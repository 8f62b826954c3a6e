import { assert } from "std-testing";
import { MetricSet } from "../../src/observe/metrics/metric_set.ts";
import { createMetrics } from "../../src/observe/metrics/mod.ts";
import { Observer } from "../../src/observe/observer.ts";
import { type FakeServerOptions, openFakeServer, SERVED_NAME } from "./_server.ts";
import { withTestEngine } from "./_engine.ts";
import { assertGrown, type Page, parsePage } from "./_page.ts";
import { RawClient } from "./_raw.ts";
import { post, postCompletion, streamCompletion } from "./_wire.ts";

/** What dashboards, autoscalers and gateways ask for; renaming one of them breaks somebody. */
const COUNTERS = [
  "http_requests_total",
  "llamacpp:n_decode_total",
  "llamacpp:n_tokens_max",
  "llamacpp:prompt_seconds_total",
  "llamacpp:prompt_tokens_total",
  "llamacpp:tokens_predicted_seconds_total",
  "llamacpp:tokens_predicted_total",
  "tokenbutler_connections_refused_total",
  "tokenbutler_device_lost_total",
  "tokenbutler_engine_crashed_total",
  "tokenbutler_kv_fetched_bytes_total",
  "tokenbutler_kv_moved_bytes_total",
  "tokenbutler_kv_resident_rows_total",
  "tokenbutler_kv_stall_seconds_total",
  "tokenbutler_kv_stalled_steps_total",
  "tokenbutler_kv_wanted_rows_total",
  "tokenbutler_recall_samples_total",
  "tokenbutler_sequences_total",
  "vllm:admission_rejections_total",
  "vllm:generation_tokens_total",
  "vllm:num_preemptions_total",
  "vllm:prefix_cache_hits_total",
  "vllm:prefix_cache_queries_total",
  "vllm:prompt_tokens_total",
  "vllm:request_success_total",
];
const GAUGES = [
  "llamacpp:n_busy_slots_per_decode",
  "llamacpp:predicted_tokens_seconds",
  "llamacpp:prompt_tokens_seconds",
  "llamacpp:requests_deferred",
  "llamacpp:requests_processing",
  "process_heap_bytes",
  "process_resident_memory_bytes",
  "process_start_time_seconds",
  "tokenbutler_build_info",
  "tokenbutler_engine_up",
  "tokenbutler_kv_bytes",
  "tokenbutler_kv_capacity_bytes",
  "tokenbutler_kv_rows",
  "tokenbutler_parked_sequences",
  "tokenbutler_prefix_blocks",
  "vllm:cache_config_info",
  "vllm:cpu_cache_usage_perc",
  "vllm:gpu_cache_usage_perc",
  "vllm:kv_cache_usage_perc",
  "vllm:num_requests_running",
  "vllm:num_requests_swapped",
  "vllm:num_requests_waiting",
];
const HISTOGRAMS = [
  "http_request_duration_seconds",
  "tokenbutler_kv_resident_share",
  "tokenbutler_kv_rows_per_step",
  "tokenbutler_recall_mass",
  "tokenbutler_recall_overlap",
  "vllm:e2e_request_latency_seconds",
  "vllm:inter_token_latency_seconds",
  "vllm:iteration_tokens_total",
  "vllm:request_decode_time_seconds",
  "vllm:request_generation_tokens",
  "vllm:request_inference_time_seconds",
  "vllm:request_max_num_generation_tokens",
  "vllm:request_params_max_tokens",
  "vllm:request_params_n",
  "vllm:request_prefill_time_seconds",
  "vllm:request_prompt_tokens",
  "vllm:request_queue_time_seconds",
  "vllm:time_per_output_token_seconds",
  "vllm:time_to_first_token_seconds",
];

const MODEL = `model_name="${SERVED_NAME}"`;
const VLLM = `${MODEL},engine="0"`;

/** A server with metrics and what its page says. */
function openMeasured(options: FakeServerOptions = {}) {
  const metrics = createMetrics({ modelName: SERVED_NAME, version: "1.2.3" });
  const observer = new Observer({ sinks: [metrics] });
  const app = { observer, operator: { metrics } };
  return openFakeServer({ ...options, app: { ...options.app, ...app } });
}

async function scrape(server: { readonly url: string }): Promise<Page> {
  const response = await fetch(`${server.url}/metrics`);
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  return parsePage(await response.text());
}

Deno.test("check 19: /metrics is a valid page of stable names whose counters only grow", async () => {
  await using server = await openMeasured();
  const first = await scrape(server);
  assert.deepEqual(namesOf(first, "counter"), COUNTERS);
  assert.deepEqual(namesOf(first, "gauge"), GAUGES);
  assert.deepEqual(namesOf(first, "histogram"), HISTOGRAMS);
  for (const between of DIRECTIONS) assert.equal(movedBytes(first, between), 0);
  let before = first;
  for (let round = 0; round < 3; round++) {
    await postCompletion(server, { prompt: "abcdef", max_tokens: 4, n: 2 });
    await streamCompletion(server, { prompt: "abc", max_tokens: 100 });
    await (await post(server, "/v1/completions", { prompt: 7 })).body?.cancel();
    await (await fetch(`${server.url}/nowhere`, { method: "PATCH" })).body?.cancel();
    const after = await scrape(server);
    assertGrown(before, after);
    before = after;
  }
  const of = (key: string) => before.samples.get(key);
  assert.equal(of(`vllm:generation_tokens_total{${VLLM}}`), 3 * (4 + 4 + 20));
  assert.equal(of(`vllm:prompt_tokens_total{${VLLM}}`), 3 * (6 + 6 + 3));
  assert.equal(of("llamacpp:tokens_predicted_total"), 3 * 28);
  assert.equal(of("llamacpp:prompt_tokens_total"), 3 * 15);
  assert.equal(of("llamacpp:n_tokens_max"), 3 + 20);
  assert.equal(of(`vllm:request_success_total{finished_reason="length",${VLLM}}`), 6);
  assert.equal(of(`vllm:request_success_total{finished_reason="stop",${VLLM}}`), 3);
  assert.equal(of(`vllm:request_params_n_sum{${VLLM}}`), 3 * (2 + 1));
  assert.equal(of(`vllm:time_to_first_token_seconds_count{${VLLM}}`), 9);
  assert.equal(of(`vllm:inter_token_latency_seconds_count{${VLLM}}`), 3 * (3 + 3 + 19));
  const http = (handler: string, method: string, status: number) =>
    of(`http_requests_total{handler="${handler}",method="${method}",status="${status}",${MODEL}}`);
  assert.equal(http("/v1/completions", "POST", 200), 6);
  assert.equal(http("/v1/completions", "POST", 400), 3);
  // Neither paths nor methods of a client's choice become labels.
  assert.equal(http("other", "other", 404), 3);
});

/** From and to. */
const DIRECTIONS = [["device", "host"], ["host", "device"], ["host", "disk"], [
  "disk",
  "host",
]] as const;

function movedBytes({ samples }: Page, [from, to]: typeof DIRECTIONS[number]): number | undefined {
  return samples.get(`tokenbutler_kv_moved_bytes_total{from="${from}",to="${to}",${MODEL}}`);
}

function namesOf({ types }: Page, wanted: string): string[] {
  return [...types].filter(([, type]) => type === wanted).map(([name]) => name).toSorted();
}

Deno.test("an answer that is given up and one that fails have their own outcomes", async () => {
  await using server = await openMeasured({
    stepMs: 5,
    failAt: ({ promptIds }) => promptIds.length === 1 ? 2 : undefined,
    failure: { code: "device_lost", message: "the device was lost" },
  });
  const response = await post(server, "/v1/completions", { prompt: "abc", stream: true });
  const reader = response.body!.getReader();
  await reader.read();
  await reader.cancel();
  await (await post(server, "/v1/completions", { prompt: "a", max_tokens: 5 })).body?.cancel();
  const count = async (reason: string) =>
    (await scrape(server)).samples.get(
      `vllm:request_success_total{finished_reason="${reason}",${VLLM}}`,
    );
  assert.equal(await count("error"), 1);
  assert.equal(await count("abort"), 1);
  const { samples } = await scrape(server);
  const ended = (policy: string, outcome: string) =>
    samples.get(`tokenbutler_sequences_total{policy="${policy}",outcome="${outcome}",${MODEL}}`);
  // Neither of them was told by the engine at its end.
  assert.deepEqual([ended("dense", "abort"), ended("dense", "error")], [1, 1]);
  assert.equal(samples.get(`tokenbutler_device_lost_total{${MODEL}}`), 1);
  assert.equal(samples.get(`tokenbutler_engine_up{${MODEL}}`), 0);
});

Deno.test("what an engine did before it was lost is on the page, though nobody had asked it", async () => {
  await using server = await openMeasured();
  await postCompletion(server, { prompt: "abcdef", max_tokens: 4 });
  server.engine.lose({ code: "device_lost", message: "the device was lost" });
  await (await fetch(`${server.url}/health`)).body?.cancel();
  const { samples } = await scrape(server);
  assert.equal(samples.get("llamacpp:prompt_tokens_total"), 6);
  assert.equal(samples.get(`vllm:prefix_cache_queries_total{${VLLM}}`), 6);
  assert.equal(samples.get("llamacpp:n_decode_total"), 4);
  assert.equal(samples.get(`tokenbutler_engine_up{${MODEL}}`), 0);
  assert.equal(samples.get(`tokenbutler_kv_bytes{tier="device",${MODEL}}`), 0);
});

Deno.test("/metrics answers while the model loads, and is not there unless it is asked for", async () => {
  const metrics = createMetrics({ modelName: SERVED_NAME, version: "1.2.3" });
  await using loading = await openFakeServer({
    app: { model: new Promise(() => {}), operator: { metrics } },
  });
  assert.equal((await scrape(loading)).samples.get(`tokenbutler_engine_up{${MODEL}}`), 0);
  await using without = await openFakeServer();
  const response = await fetch(`${without.url}/metrics`);
  assert.equal(response.status, 404);
  await response.body?.cancel();
});

Deno.test("what is refused is counted by its reason, with and without a request", async () => {
  await using server = await openMeasured({
    maxSequences: 1,
    stepMs: 20,
    app: { limits: { maxQueue: 0 } },
  });
  const running = await post(server, "/v1/completions", {
    prompt: "x",
    max_tokens: 100,
    ignore_eos: true,
    stream: true,
  });
  for (const path of ["/v1/completions", "/v1/chat/completions"]) {
    await (await post(server, path, { prompt: "y" })).body?.cancel();
  }
  // A probe asks for nothing that could be refused.
  await (await fetch(`${server.url}/ready`)).body?.cancel();
  using client = await RawClient.connect(server);
  await client.write("rubbish\r\n\r\n");
  await client.readAll();
  const { samples } = await scrape(server);
  assert.equal(samples.get(`vllm:admission_rejections_total{reason="queue_full",${VLLM}}`), 2);
  const closed = (reason: string) =>
    samples.get(`tokenbutler_connections_refused_total{reason="${reason}",${MODEL}}`);
  assert.equal(closed("invalid_http"), 1);
  assert.equal(closed("too_many_connections"), 0);
  await running.body?.cancel();
});

Deno.test("a histogram that follows only grows, also when its counts begin anew", async () => {
  const set = new MetricSet();
  const sizes = set.following("sizes", "Sizes", [1, 8]);
  const page = async () => Object.fromEntries(parsePage(await set.text()).samples);
  sizes.set([2, 1, 1], 30);
  const first = await page();
  assert.deepEqual(first, {
    'sizes_bucket{le="1"}': 2,
    'sizes_bucket{le="8"}': 3,
    'sizes_bucket{le="+Inf"}': 4,
    sizes_sum: 30,
    sizes_count: 4,
  });
  sizes.set([2, 1, 1], 30);
  assert.deepEqual(await page(), first);
  // Another engine.
  set.beginAnew();
  sizes.set([3, 0, 0], 3);
  sizes.set([3, 0, 1], 23);
  const { sizes_count: count, sizes_sum: sum, 'sizes_bucket{le="1"}': ones } = await page();
  assert.deepEqual([count, sum, ones], [8, 53, 5]);
});

const openReal = withTestEngine();
/** Keys and values of 32 rows in 3 layers, with 2 KV heads of 32 values in f32. */
const BLOCK_BYTES = 32 * 3 * 2 * 32 * 2 * 4;

Deno.test("check 19: the figures of a real engine: slots, tiers, prefixes, selection, recall", async () => {
  const metrics = createMetrics({ modelName: SERVED_NAME, version: "1.2.3" });
  const observer = new Observer({ sinks: [metrics] });
  await using server = await openReal({ observer, operator: { metrics } });
  const body = {
    prompt: Array.from({ length: 100 }, (_, i) => i % 50),
    max_tokens: 20,
    ignore_eos: true,
  };
  const kv = { policy: "oracle", sinks: 2, window: 8, budget: 8, recall_every: 2 };
  await postCompletion(server, { ...body, kv });
  const first = await scrape(server);
  await postCompletion(server, { ...body, kv });
  const second = await scrape(server);
  assertGrown(first, second);
  // Three blocks of the first prompt are put where the second one finds them; nothing is spilled.
  const moved = DIRECTIONS.map((between) => movedBytes(second, between)! / BLOCK_BYTES);
  assert.deepEqual(moved, [3, 3, 0, 0]);
  const { samples } = second;
  const of = (key: string) => samples.get(key);
  assert.equal(of(`tokenbutler_engine_up{${MODEL}}`), 1);
  assert.equal(of(`vllm:num_requests_running{${VLLM}}`), 0);
  assert.equal(of(`vllm:prefix_cache_queries_total{${VLLM}}`), 200);
  assert.equal(of(`vllm:prefix_cache_hits_total{${VLLM}}`), 96);
  assert.equal(of("llamacpp:prompt_tokens_total"), 104);
  assert.ok(of(`tokenbutler_kv_capacity_bytes{tier="device",${MODEL}}`)! > 0);
  assert.ok(of(`tokenbutler_kv_bytes{tier="host",${MODEL}}`)! > 0);
  assert.ok(of(`tokenbutler_prefix_blocks{${MODEL}}`)! >= 3);
  assert.equal(of(`tokenbutler_sequences_total{policy="oracle",outcome="length",${MODEL}}`), 2);
  assert.ok(of(`tokenbutler_recall_samples_total{${MODEL}}`)! > 0);
  assert.equal(of(`tokenbutler_kv_resident_share_count{${MODEL}}`), 2);
  assert.equal(of("llamacpp:n_busy_slots_per_decode"), 1);
  assert.ok(of("llamacpp:n_decode_total")! >= 38);
  // Pieces of 32 tokens of a prompt of 100, and the four tokens that were not found again.
  assert.ok(of(`vllm:iteration_tokens_total_sum{${VLLM}}`)! >= 104 + 38);
  const upTo = (le: string) => of(`vllm:iteration_tokens_total_bucket{le="${le}",${VLLM}}`)!;
  assert.equal(upTo("32") - upTo("16"), 3);
  assert.equal(upTo("+Inf"), of(`vllm:iteration_tokens_total_count{${VLLM}}`));
  assert.equal(upTo("8") - upTo("1"), 2);

  // A client that leaves: what was done for it is no less.
  const ask = { ...body, prompt: body.prompt.toReversed(), max_tokens: 300, kv, stream: true };
  const reader = (await post(server, "/v1/completions", ask)).body!.getReader();
  for (let chunks = 0; chunks < 5; chunks++) await reader.read();
  await reader.cancel();
  let third = await scrape(server);
  while (third.samples.get(`vllm:num_requests_running{${VLLM}}`)! > 0) third = await scrape(server);
  assertGrown(second, third);
  assert.equal(
    third.samples.get(`tokenbutler_sequences_total{policy="oracle",outcome="abort",${MODEL}}`),
    1,
  );
  assert.equal(third.samples.get(`vllm:prefix_cache_queries_total{${VLLM}}`), 300);
  assert.equal(third.samples.get("llamacpp:prompt_tokens_total"), 204);
  assert.equal(third.samples.get(`tokenbutler_kv_rows_per_step_count{${MODEL}}`), 3);
  assert.ok(
    third.samples.get("llamacpp:prompt_seconds_total")! > of("llamacpp:prompt_seconds_total")!,
  );
});
