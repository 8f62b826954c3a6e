/** Lines of a log, as text or as JSON. @module */

/** From the least to the most important. */
export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
/** How important a line is. */
export type LogLevel = typeof LOG_LEVELS[number];

/** Forms of a line. */
export const LOG_FORMATS = ["text", "json"] as const;
/** Form of a line. */
export type LogFormat = typeof LOG_FORMATS[number];

/** What a line says beside its message; undefined members are left out. */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

/** Writes lines. */
export interface Logger {
  /** Whether a line of that level would be written. */
  enabled(level: LogLevel): boolean;
  log(level: LogLevel, message: string, fields?: LogFields): void;
}

/** How a log is written. */
export interface LoggerOptions {
  readonly format: LogFormat;
  /** The least important level that is written. */
  readonly level: LogLevel;
  /** Gets whole lines, with their ends. */
  readonly write: (line: string) => void;
  readonly now?: () => Date;
}

/**
 * Makes a logger. A line is one line, whatever is in it. What cannot be written is counted, and told
 * with the next line that can.
 */
export function createLogger(options: LoggerOptions): Logger {
  const { format, write, now = () => new Date() } = options;
  const least = LOG_LEVELS.indexOf(options.level);
  const enabled = (level: LogLevel) => LOG_LEVELS.indexOf(level) >= least;
  const line = format === "json" ? jsonLine : textLine;
  let lost = 0;
  /** A disk that is full, or a reader who is gone, must not end what is logged. */
  const put = (level: LogLevel, message: string, fields: LogFields) => {
    const time = now().toISOString();
    try {
      if (lost > 0) {
        write(line(time, "warn", "lines of this log could not be written", { count: lost }));
        lost = 0;
      }
      write(line(time, level, message, fields));
    } catch {
      lost++;
    }
  };
  return {
    enabled,
    log(level, message, fields = {}) {
      if (enabled(level)) put(level, message, fields);
    },
  };
}

function jsonLine(time: string, level: LogLevel, message: string, fields: LogFields): string {
  return `${JSON.stringify({ time, level, message, ...fields })}\n`;
}

/** `2026-01-31T12:00:00.000Z info request status=200 path=/health`. */
function textLine(time: string, level: LogLevel, message: string, fields: LogFields): string {
  const pairs = Object.entries(fields).filter(([, value]) => value !== undefined)
    .map(([name, value]) => ` ${name}=${bare(value!)}`);
  return `${time} ${level} ${oneLine(message)}${pairs.join("")}\n`;
}

/** A value that cannot be taken for more than one: quoted where it has more than plain characters. */
function bare(value: string | number | boolean): string {
  const text = String(value);
  return /^[\w.,:;/{}+-]+$/.test(text) ? text : quoted(text);
}

function oneLine(message: string): string {
  return /^[^\p{Cc}\u2028\u2029]*$/u.test(message) ? message : quoted(message);
}

/** JSON leaves some characters as they are that a terminal acts on, or that end a line. */
function quoted(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** What a message for people begins with, and the level that this means. */
const MARKS: readonly (readonly [string, LogLevel])[] = [
  ["error: ", "error"],
  ["warning: ", "warn"],
  ["note: ", "info"],
];

/** A line of a message for people. */
interface MessageLine {
  readonly level: LogLevel;
  /** As it was written. */
  readonly line: string;
  /** Without the mark. */
  readonly message: string;
}

/** Lines with something in them. One that is indented, as of a stack, goes with the one before. */
function* messageLines(text: string): Generator<MessageLine> {
  let level: LogLevel = "info";
  for (const line of text.split("\n")) {
    if (line.trim() === "") continue;
    const [mark, marked] = MARKS.find(([mark]) => line.startsWith(mark)) ?? ["", undefined];
    if (marked !== undefined) level = marked;
    else if (!/^\s/.test(line)) level = "info";
    yield { level, line, message: line.slice(mark.length) };
  }
}

/** Writes messages that were made for people (`note: ...`) as lines of a log. */
export function logText(logger: Logger, text: string): void {
  for (const { level, message } of messageLines(text)) logger.log(level, message);
}

/** What of messages for people a log of that level would have. */
export function textAtLevel(logger: Logger, text: string): string {
  return [...messageLines(text)].filter(({ level }) => logger.enabled(level))
    .map(({ line }) => `${line}\n`).join("");
}
