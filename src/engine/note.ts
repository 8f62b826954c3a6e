/** What an engine says that belongs to no request. @module */
import type { EngineNote } from "./types.ts";

/** An error that nobody expects, as a note. */
export function noteOf(error: unknown): EngineNote {
  const { stack } = error instanceof Error ? error : {};
  return { level: "error", message: String(error), ...(stack === undefined ? {} : { stack }) };
}

/** Writes a note where nobody listens. */
export function noteOnConsole({ level, message, stack }: EngineNote): void {
  console.error(level === "warning" ? `warning: ${message}` : stack ?? message);
}
