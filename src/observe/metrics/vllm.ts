/** Metrics under vLLM's names, which gateways and most dashboards read. @module */
import { STEP_SIZE_BOUNDS } from "../../engine/totals.ts";
import type { EngineInfo, EngineStats } from "../../engine/types.ts";
import type { SequenceRecord } from "../sequence_record.ts";
import type { ExchangeRecord, Sink } from "../types.ts";
import { MetricSet, oneTwoFive } from "./metric_set.ts";
import type { MetricGroup } from "./types.ts";

const FIRST_TOKEN_S = [
  ...[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75],
  ...[1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560],
];
const TOKEN_S = [
  ...[0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75],
  ...[1, 2.5, 5, 7.5, 10, 20, 40, 80],
];
const REQUEST_S = [
  ...[0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60],
  ...[120, 240, 480, 960, 1920, 7680],
];
const TOKENS = oneTwoFive(1_000_000);
/** Routes that are refused an answer; others ask for none. */
const GENERATION: ReadonlySet<string> = new Set(["/v1/completions", "/v1/chat/completions"]);

/** Makes the group. vLLM labels everything with the model and the number of the engine. */
export function vllmMetrics(modelName: string): MetricGroup & Sink {
  const set = new MetricSet({ model_name: modelName, engine: "0" });
  const running = set.gauge("vllm:num_requests_running", "Sequences that run");
  const waiting = set.gauge("vllm:num_requests_waiting", "Sequences that wait for a slot");
  const swapped = set.gauge(
    "vllm:num_requests_swapped",
    "Sequences that are parked: their rows lie below the device",
  );
  const usage = [
    set.gauge("vllm:kv_cache_usage_perc", "Share of the device's KV pages in use, 0 to 1"),
    // Its older name, which many dashboards still have.
    set.gauge("vllm:gpu_cache_usage_perc", "The same as vllm:kv_cache_usage_perc"),
  ];
  const hostUsage = set.gauge(
    "vllm:cpu_cache_usage_perc",
    "Share of the host's room for KV rows in use, 0 to 1",
  );
  const config = set.gauge("vllm:cache_config_info", "Size of the device's KV cache", [
    "block_size",
    "num_gpu_blocks",
    "cache_dtype",
  ]);
  const preemptions = set.followingCounter(
    "vllm:num_preemptions_total",
    "Times that a sequence gave up its slot",
  );
  const queries = set.followingCounter(
    "vllm:prefix_cache_queries_total",
    "Prompt tokens that were looked for in the prefix cache",
  );
  const hits = set.followingCounter(
    "vllm:prefix_cache_hits_total",
    "Prompt tokens that were found in the prefix cache",
  );
  const promptTokens = set.counter(
    "vllm:prompt_tokens_total",
    "Prompt tokens, found ones included, of a prompt as a whole when the first token of its answer " +
      "comes: those that are given up before, or only scored (max_tokens 0), never count",
  );
  const generated = set.counter("vllm:generation_tokens_total", "Tokens that were generated");
  const success = set.counter("vllm:request_success_total", "Sequences that ended", [
    "finished_reason",
  ]);
  for (const reason of ["stop", "length", "abort", "error"]) {
    success.inc({ finished_reason: reason }, 0);
  }
  const rejections = set.counter(
    "vllm:admission_rejections_total",
    "Requests for an answer that were refused with 429, by the code of the error",
    ["reason"],
  );
  rejections.inc({ reason: "queue_full" }, 0);
  const steps = set.following(
    "vllm:iteration_tokens_total",
    "Tokens of a step of the engine",
    STEP_SIZE_BOUNDS,
  );
  const firstToken = set.histogram(
    "vllm:time_to_first_token_seconds",
    "From the arrival of a request to the first token of a sequence",
    FIRST_TOKEN_S,
  );
  const gaps = [
    set.histogram("vllm:inter_token_latency_seconds", "From one token to the next", TOKEN_S),
    set.histogram(
      "vllm:time_per_output_token_seconds",
      "The same as vllm:inter_token_latency_seconds",
      TOKEN_S,
    ),
  ];
  const whole = set.histogram(
    "vllm:e2e_request_latency_seconds",
    "From the arrival of a request to the end of a sequence",
    REQUEST_S,
  );
  const queue = set.histogram("vllm:request_queue_time_seconds", "Wait for a slot", REQUEST_S);
  const inference = set.histogram(
    "vllm:request_inference_time_seconds",
    "From the slot to the last token",
    REQUEST_S,
  );
  const prefill = set.histogram(
    "vllm:request_prefill_time_seconds",
    "From the slot to the first token",
    REQUEST_S,
  );
  const decode = set.histogram(
    "vllm:request_decode_time_seconds",
    "From the first token to the last",
    REQUEST_S,
  );
  const inPrompt = set.histogram("vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS);
  const inAnswer = set.histogram("vllm:request_generation_tokens", "Tokens of an answer", TOKENS);
  const longest = set.histogram(
    "vllm:request_max_num_generation_tokens",
    "Tokens of the longest answer of a request",
    TOKENS,
  );
  const answers = set.histogram("vllm:request_params_n", "Answers asked for (`n`)", [1, 2, 5, 10]);
  const most = set.histogram(
    "vllm:request_params_max_tokens",
    "Tokens that an answer may have",
    TOKENS,
  );

  return {
    collect(stats: EngineStats, info: EngineInfo) {
      running.set(stats.runningSequences);
      waiting.set(stats.waitingSequences);
      swapped.set(stats.parkedSequences);
      preemptions.set(stats.preemptions);
      queries.set(stats.totals.lookedUpTokens);
      hits.set(stats.totals.foundTokens);
      steps.set(stats.stepSizes.counts, stats.stepSizes.sum);
      const share = stats.numPages === 0 ? 0 : stats.pagesInUse / stats.numPages;
      for (const gauge of usage) gauge.set(share);
      const { bytes, capacityBytes } = stats.tiers.host;
      hostUsage.set(capacityBytes === 0 ? 0 : bytes / capacityBytes);
      config.reset();
      config.set({
        block_size: String(info.kv.pageSize),
        num_gpu_blocks: String(stats.numPages),
        cache_dtype: info.kv.type,
      }, 1);
    },
    engineChanged: () => set.beginAnew(),
    engineGone() {
      for (const gauge of [running, waiting, swapped, ...usage, hostUsage]) gauge.set(0);
    },
    text: () => set.text(),

    token(sequence: SequenceRecord, gapMs: number | null) {
      generated.inc();
      if (gapMs !== null) {
        for (const histogram of gaps) histogram.observe(gapMs / 1000);
        return;
      }
      promptTokens.inc(sequence.request.promptIds.length);
      firstToken.observe((sequence.firstTokenMs! - sequence.exchange.beganMs) / 1000);
    },
    ended(sequence: SequenceRecord) {
      const { outcome, request } = sequence;
      success.inc({ finished_reason: outcome! });
      if (outcome !== "stop" && outcome !== "length") return;
      whole.observe((sequence.endedMs! - sequence.exchange.beganMs) / 1000);
      const { queueMs, prefillMs, decodeMs } = sequence.phases;
      queue.observe(queueMs / 1000);
      inference.observe((prefillMs + decodeMs) / 1000);
      prefill.observe(prefillMs / 1000);
      decode.observe(decodeMs / 1000);
      inPrompt.observe(request.promptIds.length);
      inAnswer.observe(sequence.numTokens);
      most.observe(request.maxTokens);
    },
    exchanged({ route, status, error, sequences }: ExchangeRecord) {
      if (status === 429 && error !== null && GENERATION.has(route)) {
        rejections.inc({ reason: error });
      }
      if (sequences.length === 0) return;
      longest.observe(Math.max(...sequences.map(({ numTokens }) => numTokens)));
      // Answers to one prompt share its ids.
      const prompts = new Set(sequences.map(({ request }) => request.promptIds));
      answers.observe(sequences.length / prompts.size);
    },
  };
}
