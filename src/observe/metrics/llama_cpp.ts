/** Metrics under the names of llama.cpp's server. @module */
import type { EngineStats } from "../../engine/types.ts";
import type { SequenceRecord } from "../sequence_record.ts";
import type { Sink } from "../types.ts";
import { type Following, MetricSet } from "./metric_set.ts";
import type { MetricGroup } from "./types.ts";

/** Makes the group. As there, nothing has a label. */
export function llamaCppMetrics(): MetricGroup & Sink {
  const set = new MetricSet();
  const promptTokens = set.followingCounter(
    "llamacpp:prompt_tokens_total",
    "Prompt tokens that were prefilled, as prefill goes on: also of prompts that are given up",
  );
  const promptSeconds = set.followingCounter("llamacpp:prompt_seconds_total", "Time of prefills");
  const promptRate = set.gauge("llamacpp:prompt_tokens_seconds", "Prefilled tokens a second, mean");
  const predicted = set.counter("llamacpp:tokens_predicted_total", "Tokens that were generated");
  const predictedSeconds = set.followingCounter(
    "llamacpp:tokens_predicted_seconds_total",
    "Time of generating",
  );
  const predictedRate = set.gauge(
    "llamacpp:predicted_tokens_seconds",
    "Generated tokens a second of a sequence, mean",
  );
  const processing = set.gauge("llamacpp:requests_processing", "Sequences that run");
  const deferred = set.gauge("llamacpp:requests_deferred", "Sequences that wait for a slot");
  const longest = set.counter("llamacpp:n_tokens_max", "Tokens of the longest sequence so far");
  const decodes = set.followingCounter("llamacpp:n_decode_total", "Decode steps");
  const busy = set.gauge("llamacpp:n_busy_slots_per_decode", "Sequences of a decode step, mean");
  let most = 0;
  /** Tokens that the seconds of generating were spent on. */
  const answered = set.followingNumber();

  return {
    collect({ totals, decodeSteps, decodedRows, ...stats }: EngineStats) {
      processing.set(stats.runningSequences);
      deferred.set(stats.waitingSequences);
      decodes.set(decodeSteps);
      promptTokens.set(totals.prefilledTokens);
      promptSeconds.set(totals.prefillMs / 1000);
      answered.set(totals.generatedTokens);
      predictedSeconds.set(totals.decodeMs / 1000);
      busy.set(decodeSteps === 0 ? 0 : decodedRows / decodeSteps);
    },
    engineChanged: () => set.beginAnew(),
    engineGone() {
      for (const gauge of [processing, deferred]) gauge.set(0);
    },
    text() {
      promptRate.set(rate(promptTokens, promptSeconds));
      predictedRate.set(rate(answered, predictedSeconds));
      return set.text();
    },

    token: () => predicted.inc(),
    ended({ request, numTokens }: SequenceRecord) {
      const tokens = request.promptIds.length + numTokens;
      if (tokens > most) {
        longest.inc(tokens - most);
        most = tokens;
      }
    },
  };
}

function rate(tokens: Following, seconds: Following): number {
  return seconds.total > 0 ? tokens.total / seconds.total : 0;
}
