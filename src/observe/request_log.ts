/** One line of the log for each request, and at level `debug` one for each sequence. @module */
import type { Logger } from "./logger.ts";
import { type RefusalClock, RefusalLog } from "./refusal_log.ts";
import type { SequenceRecord } from "./sequence_record.ts";
import type { ExchangeRecord, Sink } from "./types.ts";

/** Characters of a text that a line has at most. */
const MAX_TEXT = 20_000;

/** Requests that are asked all the time, and say nothing. */
const QUIET: ReadonlySet<string> = new Set([
  "/health",
  "/v1/health",
  "/live",
  "/ready",
  "/metrics",
]);

/**
 * Makes the sink.
 *
 * @param textOf Ids to text, where prompts and answers are to be logged; null: they never are.
 * @param clock For tests.
 */
export function requestLog(
  logger: Logger,
  textOf: ((ids: readonly number[]) => string) | null,
  clock?: RefusalClock,
): Sink {
  const texts = (sequence: SequenceRecord) =>
    textOf === null ? {} : {
      prompt: cut(textOf(sequence.request.promptIds)),
      answer: cut(textOf(sequence.ids ?? [])),
    };
  const refusals = new RefusalLog(logger, clock);
  return {
    ended(sequence) {
      const level = textOf === null ? "debug" : "info";
      if (!logger.enabled(level)) return;
      const { exchange, request, numTokens, cachedTokens, outcome, errorCode, policy } = sequence;
      const { queueMs, prefillMs, decodeMs } = sequence.phases;
      logger.log(level, "sequence", {
        request_id: exchange.id,
        sequence: request.id,
        outcome: outcome ?? undefined,
        error: errorCode ?? undefined,
        prompt_tokens: request.promptIds.length,
        cached_tokens: cachedTokens,
        generated_tokens: numTokens,
        queue_ms: rounded(queueMs),
        prefill_ms: rounded(prefillMs),
        decode_ms: rounded(decodeMs),
        policy: policy ?? undefined,
        ...texts(sequence),
      });
    },
    exchanged(exchange) {
      const level = levelOf(exchange);
      if (!logger.enabled(level)) return;
      const { handle: { id, beganMs }, method, route, status, error, endedMs, sequences } =
        exchange;
      logger.log(level, "request", {
        request_id: id,
        method,
        route,
        status: status ?? undefined,
        error: error ?? undefined,
        ms: rounded(endedMs - beganMs),
        ...(sequences.length === 0 ? {} : generation(exchange)),
      });
    },
    refused: (connection) => refusals.add(connection),
    engineLost(code) {
      logger.log("error", "the engine is gone", { code });
    },
  };
}

/** A client that asks wrongly is no fault of the server; a stream that failed says 200. */
function levelOf({ route, status, sequences }: ExchangeRecord) {
  if (status !== null && status >= 500 && status !== 503) return "error";
  if (sequences.some(({ outcome }) => outcome === "error")) return "error";
  // Who is refused is no probe.
  const isAnswered = status === 200 || status === 503 || (route === "/ready" && status === 429);
  return QUIET.has(route) && isAnswered ? "debug" : "info";
}

function generation({ handle: { beganMs }, sequences }: ExchangeRecord) {
  const firsts = sequences.flatMap(({ firstTokenMs }) => firstTokenMs ?? []);
  return {
    sequences: sequences.length,
    prompt_tokens: sum(sequences, ({ request }) => request.promptIds.length),
    cached_tokens: sum(sequences, ({ cachedTokens }) => cachedTokens),
    generated_tokens: sum(sequences, ({ numTokens }) => numTokens),
    first_token_ms: firsts.length === 0 ? undefined : rounded(Math.min(...firsts) - beganMs),
    outcome: [...new Set(sequences.map(({ outcome }) => outcome ?? "abort"))].join(","),
  };
}

function sum(sequences: readonly SequenceRecord[], pick: (record: SequenceRecord) => number) {
  return sequences.reduce((total, sequence) => total + pick(sequence), 0);
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10;
}

function cut(text: string): string {
  if (text.length <= MAX_TEXT) return text;
  return `${text.slice(0, MAX_TEXT)}... (${text.length} characters)`;
}
