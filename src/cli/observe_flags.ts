/** The flags of `serve` about metrics and logs, and what is made of them. @module */
import { createLogger, LOG_FORMATS, LOG_LEVELS, type Logger } from "../observe/logger.ts";
import type { Metrics } from "../observe/metrics/mod.ts";
import { Observer } from "../observe/observer.ts";
import { requestLog } from "../observe/request_log.ts";
import { createTracing } from "../observe/tracing.ts";
import type { Sink } from "../observe/types.ts";
import type { ServerLog } from "../server/app.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import {
  type Flags,
  peekFlag,
  type Settings,
  switchFlag,
  triStateFlag,
  valueFlag,
} from "./flags.ts";
import { type CliIo, isDebug } from "./io.ts";
import type { LogIo } from "./log_io.ts";
import { oneOf } from "./values.ts";
import { VERSION } from "./version.ts";

const group = "Observability";

/** Metrics and logs. */
export const observeFlags = {
  metrics: triStateFlag({
    group,
    help: "GET /metrics answers in Prometheus' text format",
    fallbackText: "on",
  }),
  logFormat: valueFlag({
    group,
    help: "form of the log on standard error, text or json (one object a line)",
    placeholder: "FORMAT",
    schema: oneOf(LOG_FORMATS),
    fallback: "text" as const,
  }),
  logLevel: valueFlag({
    group,
    help: "least important lines on standard error, notes included: debug, info (a line a " +
      "request), warn or error; what ends the program is always there",
    placeholder: "LEVEL",
    schema: oneOf(LOG_LEVELS),
    fallback: "info" as const,
  }),
  logPrompts: switchFlag({
    group,
    help: "logs the texts of prompts and answers; else none of them is ever written down",
  }),
} as const;

/** What a server says of itself. */
export interface Observing {
  readonly serverLog: ServerLog;
  readonly observer: Observer;
  /** Undefined with `--no-metrics`. */
  readonly metrics: Metrics | undefined;
}

/** Makes what the flags ask for. */
export async function observe(
  settings: Settings<typeof observeFlags>,
  { logger, io }: LogIo,
  served: { readonly name: string; readonly tokenizer?: Tokenizer | undefined },
): Promise<Observing> {
  const { logPrompts } = settings;
  const sinks: Sink[] = [requestLog(logger, logPrompts ? textOf(served.tokenizer) : null)];
  let metrics: Metrics | undefined;
  if (settings.metrics ?? true) {
    const { createMetrics } = await import("../observe/metrics/mod.ts");
    metrics = createMetrics({ modelName: served.name, version: VERSION });
    sinks.push(metrics);
  }
  const tracing = await createTracing(served.name, VERSION);
  if (tracing !== null) sinks.push(tracing);
  return {
    serverLog: {
      error(message, cause, requestId) {
        const stack = isDebug(io) && cause instanceof Error ? cause.stack : undefined;
        logger.log("error", message, { request_id: requestId, stack });
      },
    },
    observer: new Observer({ sinks, keepIds: logPrompts }),
    metrics,
  };
}

/** Texts of ids; a model without a tokenizer has the ids themselves. */
function textOf(tokenizer: Tokenizer | undefined) {
  return (ids: readonly number[]) =>
    tokenizer === undefined ? `[${ids.join(",")}]` : tokenizer.decode(ids);
}

/**
 * The log that an error of the command goes to: a log of JSON has nothing else in it. Also where the
 * arguments are what is wrong.
 *
 * @returns Null: it is text, as the error is.
 */
export function errorLog(flags: Flags, args: readonly string[], io: CliIo): Logger | null {
  const format = peekFlag(flags, "logFormat", args, (name) => io.env(name));
  if (format !== "json") return null;
  return createLogger({ format, level: "error", write: (line) => io.stderr(line) });
}
