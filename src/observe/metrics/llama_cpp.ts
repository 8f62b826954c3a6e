/** Metrics under the names of llama.cpp's server. @module */
import type { EngineStats } from "../../engine/types.ts";
import type { SequenceRecord } from "../sequence_record.ts";
import type { Sink } from "../types.ts";
import { Following, MetricSet } from "./metric_set.ts";
import type { MetricGroup } from "./types.ts";

/** Makes the group. As there, nothing has a label. */
export function llamaCppMetrics(): MetricGroup & Sink {
  const set = new MetricSet();
  const promptTokens = set.counter(
    "llamacpp:prompt_tokens_total",
    "Prompt tokens that were prefilled",
  );
  const promptSeconds = set.counter("llamacpp:prompt_seconds_total", "Time of prefills");
  const promptRate = set.gauge("llamacpp:prompt_tokens_seconds", "Prefilled tokens a second, mean");
  const predicted = set.counter("llamacpp:tokens_predicted_total", "Tokens that were generated");
  const predictedSeconds = set.counter(
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
  const decodes = new Following(set.counter("llamacpp:n_decode_total", "Decode steps"));
  const busy = set.gauge("llamacpp:n_busy_slots_per_decode", "Sequences of a decode step, mean");
  let most = 0;
  const prefills = { tokens: 0, seconds: 0 };
  const answers = { tokens: 0, seconds: 0 };

  return {
    collect({ runningSequences, waitingSequences, decodeSteps, decodedRows }: EngineStats) {
      processing.set(runningSequences);
      deferred.set(waitingSequences);
      decodes.set(decodeSteps);
      busy.set(decodeSteps === 0 ? 0 : decodedRows / decodeSteps);
    },
    engineGone() {
      for (const gauge of [processing, deferred]) gauge.set(0);
    },
    text() {
      promptRate.set(rate(prefills));
      predictedRate.set(rate(answers));
      return set.text();
    },

    token: () => predicted.inc(),
    ended({ timings, request, numTokens }: SequenceRecord) {
      const tokens = request.promptIds.length + numTokens;
      if (tokens > most) {
        longest.inc(tokens - most);
        most = tokens;
      }
      if (timings === null) return;
      prefills.tokens += timings.promptTokens;
      prefills.seconds += timings.promptMs / 1000;
      answers.tokens += timings.predictedTokens;
      answers.seconds += timings.predictedMs / 1000;
      promptTokens.inc(timings.promptTokens);
      promptSeconds.inc(timings.promptMs / 1000);
      predictedSeconds.inc(timings.predictedMs / 1000);
    },
  };
}

function rate({ tokens, seconds }: { readonly tokens: number; readonly seconds: number }): number {
  return seconds > 0 ? tokens / seconds : 0;
}
