/** What a command with a log writes on standard error beside the log's own lines. @module */
import {
  createLogger,
  type LogFormat,
  type Logger,
  type LogLevel,
  logText,
  textAtLevel,
} from "../observe/logger.ts";
import { type CliIo, isDebug } from "./io.ts";

/** How the log is written. */
export interface LogSettings {
  readonly logFormat: LogFormat;
  readonly logLevel: LogLevel;
}

/** A log on standard error, and surroundings whose messages keep to it. */
export interface LogIo {
  readonly logger: Logger;
  readonly io: CliIo;
}

/**
 * Makes both. In a log of JSON, messages for people are lines of it; beside a log of text they stay as
 * they are, and those below the level are left out of either.
 */
export function logIo({ logFormat: format, logLevel: level }: LogSettings, io: CliIo): LogIo {
  const logger = createLogger({ format, level, write: (line) => io.stderr(line) });
  const isJson = format === "json";
  // Most of the time there is nothing to leave out.
  if (!isJson && logger.enabled("info")) return { logger, io };
  return {
    logger,
    io: {
      stdout: (text) => io.stdout(text),
      stderr(text) {
        if (isJson) return logText(logger, text);
        const left = textAtLevel(logger, text);
        if (left !== "") io.stderr(left);
      },
      // No bars, which are no lines.
      stderrIsTerminal: false,
      stdinIsTerminal: io.stdinIsTerminal,
      env: (name) => io.env(name),
      stdinLines: () => io.stdinLines(),
      args: io.args,
      onInterrupt: (handler) => io.onInterrupt(handler),
      exit: (code) => io.exit(code),
    },
  };
}

/** What is said of an error that ends a command. */
export interface FatalError {
  readonly message: string;
  /** What a person may do. */
  readonly hint: string | null;
  readonly error: unknown;
}

/** Writes an error that ends a command as a line of its log. */
export function logFatal(logger: Logger, { message, hint, error }: FatalError, io: CliIo): void {
  const stacks: string[] = [];
  for (let cause = error; isDebug(io) && cause instanceof Error; cause = cause.cause) {
    stacks.push(cause.stack ?? cause.message);
  }
  logger.log("error", message, {
    hint: hint ?? undefined,
    stack: stacks.length === 0 ? undefined : stacks.join("\n"),
  });
}
