/**
 * Spans of OpenTelemetry: one for each request over HTTP, in the trace that its client says; in it
 * one for each sequence, named after the operation; in that `queue`, `prefill` and `decode`. Deno
 * exports them when it is started with `OTEL_DENO=true`.
 *
 * @module
 */
import type { Attributes, Context, Span, TextMapGetter, Tracer } from "@opentelemetry/api";
import type { SequenceRecord } from "./sequence_record.ts";
import type { ExchangeHandle, HeaderReader, Sink } from "./types.ts";

const HEADERS: TextMapGetter<HeaderReader> = {
  get: (headers, name) => headers.get(name) ?? undefined,
  keys: (headers) => [...headers.keys()],
};

/** Under this symbol whoever exports spans is known to the API of OpenTelemetry. */
const API = Symbol.for("opentelemetry.js.api.1");

/** Whether anybody exports spans. */
export function isTraced(): boolean {
  return Reflect.get(globalThis, API) !== undefined;
}

interface Traced {
  readonly context: Context;
  /** The span of the HTTP request. */
  readonly span: Span;
}

/**
 * Makes the sink; null where nobody exports spans: then the API is not even loaded.
 *
 * @param modelName As clients name the model.
 */
export async function createTracing(modelName: string, version: string): Promise<Sink | null> {
  if (!isTraced()) return null;
  const api = await import("@opentelemetry/api");
  const { propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = api;
  const tracer: Tracer = trace.getTracer("tokenbutler", version);
  const requests = new WeakMap<ExchangeHandle, Traced>();

  const spansOf = (sequence: SequenceRecord) => {
    const { request, exchange, outcome, errorCode, timings, kv, policy } = sequence;
    const parent = requests.get(exchange)?.context ?? ROOT_CONTEXT;
    const operation = request.id.startsWith("chatcmpl") ? "chat" : "text_completion";
    const attributes: Attributes = {
      "gen_ai.operation.name": operation,
      "gen_ai.request.model": modelName,
      "gen_ai.request.max_tokens": request.maxTokens,
      "gen_ai.request.temperature": request.sampling.temperature,
      "gen_ai.response.id": request.id,
      "gen_ai.response.finish_reasons": [outcome ?? "abort"],
      "gen_ai.usage.input_tokens": request.promptIds.length,
      "gen_ai.usage.output_tokens": sequence.numTokens,
      "tokenbutler.request_id": exchange.id,
      ...(timings === null ? {} : { "tokenbutler.cached_tokens": timings.cachedTokens }),
      ...(policy === null ? {} : { "tokenbutler.policy": policy }),
      ...(kv === null ? {} : {
        "tokenbutler.bytes_per_step": kv.bytesPerStep,
        "tokenbutler.resident_share": kv.residentShare,
      }),
    };
    const end = sequence.endedMs ?? performance.now();
    const whole = tracer.startSpan(`${operation} ${modelName}`, {
      kind: SpanKind.INTERNAL,
      startTime: timeOf(sequence.beganMs),
      attributes,
    }, parent);
    if (errorCode !== null) {
      whole.setAttribute("error.type", errorCode);
      whole.setStatus({ code: SpanStatusCode.ERROR, message: errorCode });
    }
    const { queueMs, prefillMs, decodeMs } = sequence.phases;
    const inside = trace.setSpan(parent, whole);
    let at = sequence.beganMs;
    for (const [name, ms] of [["queue", queueMs], ["prefill", prefillMs], ["decode", decodeMs]]) {
      const span = tracer.startSpan(name as string, { startTime: timeOf(at) }, inside);
      at = Math.min(end, at + (ms as number));
      span.end(timeOf(at));
    }
    whole.end(timeOf(end));
  };

  return {
    // Not the span that Deno makes: a handler of node:http does not run inside it.
    arrived(exchange, headers) {
      const outside = propagation.extract(ROOT_CONTEXT, headers, HEADERS);
      const span = tracer.startSpan("HTTP", {
        kind: SpanKind.SERVER,
        startTime: timeOf(exchange.beganMs),
        attributes: { "tokenbutler.request_id": exchange.id },
      }, outside);
      requests.set(exchange, { context: trace.setSpan(outside, span), span });
    },
    ended: spansOf,
    exchanged({ handle, method, route, status, endedMs }) {
      const span = requests.get(handle)?.span;
      span?.updateName(`${method} ${route}`);
      span?.setAttributes({
        "http.request.method": method,
        "http.route": route,
        ...(status === null ? {} : { "http.response.status_code": status }),
      });
      if (status === null || status >= 500) span?.setStatus({ code: SpanStatusCode.ERROR });
      span?.end(timeOf(endedMs));
    },
  };
}

/** A time of `performance.now()` as seconds and nanoseconds since 1970. */
function timeOf(ms: number): [number, number] {
  const whole = performance.timeOrigin + ms;
  const seconds = Math.floor(whole / 1000);
  return [seconds, Math.round((whole - seconds * 1000) * 1e6)];
}
