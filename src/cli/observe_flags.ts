/** The flags of `serve` about metrics and logs, and what is made of them. @module */
import { createLogger, LOG_FORMATS, LOG_LEVELS, type Logger, logText } from "../observe/logger.ts";
import type { Metrics } from "../observe/metrics/mod.ts";
import { Observer } from "../observe/observer.ts";
import { requestLog } from "../observe/request_log.ts";
import { createTracing } from "../observe/tracing.ts";
import type { Sink } from "../observe/types.ts";
import type { ServerLog } from "../server/app.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import { type Settings, switchFlag, triStateFlag, valueFlag } from "./flags.ts";
import { type CliIo, isDebug } from "./io.ts";
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
    help: "least important lines that are logged: debug, info (a line a request), warn or error",
    placeholder: "LEVEL",
    schema: oneOf(LOG_LEVELS),
    fallback: "info" as const,
  }),
  logPrompts: switchFlag({
    group,
    help: "logs the texts of prompts and answers; else none of them is ever written down",
  }),
} as const;

/** What a server says of itself, and where. */
export interface Observing {
  readonly logger: Logger;
  /** Surroundings whose messages go through the log where it is JSON. */
  readonly io: CliIo;
  readonly serverLog: ServerLog;
  readonly observer: Observer;
  /** Undefined with `--no-metrics`. */
  readonly metrics: Metrics | undefined;
}

/** Makes what the flags ask for. */
export async function observe(
  settings: Settings<typeof observeFlags>,
  io: CliIo,
  served: { readonly name: string; readonly tokenizer?: Tokenizer | undefined },
): Promise<Observing> {
  const { logFormat: format, logLevel: level, logPrompts } = settings;
  const logger = createLogger({ format, level, write: (line) => io.stderr(line) });
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
    logger,
    io: format === "json" ? withLoggedMessages(io, logger) : io,
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

/** A log of JSON has nothing else in it. */
function withLoggedMessages(io: CliIo, logger: Logger): CliIo {
  return {
    stdout: (text) => io.stdout(text),
    stderr: (text) => logText(logger, text),
    stderrIsTerminal: false,
    stdinIsTerminal: io.stdinIsTerminal,
    env: (name) => io.env(name),
    stdinLines: () => io.stdinLines(),
    args: io.args,
    onInterrupt: (handler) => io.onInterrupt(handler),
    exit: (code) => io.exit(code),
  };
}
