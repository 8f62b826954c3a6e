/**
 * Renders an untrusted chat template within a budget. The interpreter is `@huggingface/jinja`; a
 * subclass looks at every value it makes, and {@linkcode guardBuiltins} covers the few built-in
 * functions that can make a huge string in one step. Both are needed: V8 ends the whole process,
 * not just the worker, when the heap is full.
 *
 * @module
 */

import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import {
  MAX_RANGE,
  type TemplateFailure,
  type TemplateReply,
  type TemplateRequest,
  timeoutMessage,
} from "./template_protocol.ts";

type Program = ReturnType<typeof parse>;

/** UTF-16 units that all values of one rendering may have together. */
const TOTAL_UNITS = 128 * 1024 * 1024;
/** What an array element counts in units: its object is that much larger than a character. */
const ELEMENT_UNITS = 16;
const CLOCK_EVERY = 256;

class Failure extends Error {
  constructor(readonly code: TemplateFailure, message: string) {
    super(message);
  }
}

/** What one rendering may still use. */
class Budget {
  #units = TOTAL_UNITS;
  #calls = 0;
  readonly #end: number;

  constructor(readonly maxLength: number, readonly deadlineMs: number) {
    this.#end = performance.now() + deadlineMs;
  }

  /** Before or after a string of that length is made. */
  string(length: number): void {
    if (length > this.maxLength) {
      throw new Failure(
        "too_long",
        `the chat template makes a string of more than ${this.maxLength} characters`,
      );
    }
    this.#spend(length);
  }

  array(length: number): void {
    this.#spend(length * ELEMENT_UNITS);
  }

  #spend(units: number): void {
    this.#units -= units + 1;
    if (this.#units < 0) {
      throw new Failure("too_long", "the chat template makes too many values");
    }
    if (++this.#calls % CLOCK_EVERY === 0 && performance.now() > this.#end) {
      throw new Failure("timeout", timeoutMessage(this.deadlineMs));
    }
  }
}

let current: Budget | undefined;

/** The interpreter, with every value put on the bill. */
class BoundedInterpreter extends Interpreter {
  readonly #budget: Budget;

  constructor(environment: Environment, budget: Budget) {
    super(environment);
    this.#budget = budget;
  }

  override evaluate(
    statement: Parameters<Interpreter["evaluate"]>[0],
    environment: Environment,
  ): ReturnType<Interpreter["evaluate"]> {
    const result = super.evaluate(statement, environment);
    const value = result.value;
    if (typeof value === "string") this.#budget.string(value.length);
    else this.#budget.array(Array.isArray(value) ? value.length : 0);
    return result;
  }
}

/**
 * Puts a bound on `repeat`, `split`, `replaceAll` and `join`. For the template worker only, whose
 * realm runs nothing but templates: there is no other way into the library's filters.
 */
export function guardBuiltins(): void {
  const { repeat, split, replaceAll } = String.prototype;
  const { join } = Array.prototype;
  const define = (target: object, name: string, value: unknown) =>
    Object.defineProperty(target, name, { value, writable: true, configurable: true });

  define(String.prototype, "repeat", function (this: string, count: number): string {
    current?.string(this.length * count);
    return repeat.call(this, count);
  });
  define(
    String.prototype,
    "split",
    function (this: string, separator: string | RegExp, limit?: number): string[] {
      const parts = Reflect.apply(split, this, [separator, limit]);
      current?.array(parts.length);
      return parts;
    },
  );
  define(
    String.prototype,
    "replaceAll",
    function (this: string, pattern: string | RegExp, by: unknown): string {
      if (typeof by !== "function") return Reflect.apply(replaceAll, this, [pattern, by]);
      let length = this.length;
      return replaceAll.call(this, pattern, (...match: unknown[]) => {
        const text = String(by(...match));
        length += text.length;
        current?.string(length);
        return text;
      });
    },
  );
  define(Array.prototype, "join", function (this: unknown[], separator?: string): string {
    if (current !== undefined) {
      const between = separator === undefined ? 1 : separator.length;
      let length = Math.max(0, this.length - 1) * between;
      for (const item of this) length += typeof item === "string" ? item.length : 1;
      current.string(length);
    }
    return join.call(this, separator);
  });
}

let parsed: { readonly source: string; readonly program: Program } | undefined;

/** Answers one request. Never throws. */
export function answer(request: TemplateRequest): TemplateReply {
  const { source, variables, limits } = request;
  let program: Program;
  try {
    if (parsed?.source !== source) {
      parsed = undefined;
      parsed = { source, program: parseTemplate(source) };
    }
    program = parsed.program;
  } catch (error) {
    return { type: "failed", code: "parse", message: messageOf(error) };
  }
  if (variables === null) return { type: "text", text: "" };
  current = new Budget(limits.maxLength, limits.deadlineMs);
  try {
    const environment = new Environment();
    for (const [name, value] of Object.entries(GLOBALS)) environment.set(name, value);
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    const { value } = new BoundedInterpreter(environment, current).run(program);
    return { type: "text", text: String(value) };
  } catch (error) {
    if (error instanceof Failure) {
      return { type: "failed", code: error.code, message: error.message };
    }
    return { type: "failed", code: "invalid", message: messageOf(error) };
  } finally {
    current = undefined;
  }
}

function parseTemplate(source: string): Program {
  const program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  refuseLongRanges(program);
  return program;
}

/** Refuses `range(100000000)` before anything runs: a loop that long is no chat template. */
function refuseLongRanges(program: Program): void {
  const pending: unknown[] = [program];
  while (pending.length > 0) {
    const node = pending.pop();
    if (typeof node !== "object" || node === null) continue;
    const call = node as { type?: unknown; callee?: { value?: unknown }; args?: unknown };
    if (
      call.type === "CallExpression" && call.callee?.value === "range" && Array.isArray(call.args)
    ) {
      for (const argument of call.args as { value?: unknown }[]) {
        if (typeof argument.value === "number" && Math.abs(argument.value) > MAX_RANGE) {
          throw new Error(`range(${argument.value}) has more than ${MAX_RANGE} values`);
        }
      }
    }
    for (const child of node instanceof Map ? [...node].flat() : Object.values(node)) {
      pending.push(child);
    }
  }
}

const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
  raise_exception(message: unknown): never {
    throw new Failure("raised", String(message).slice(0, 1000));
  },
  range(first: number, last?: number, step = 1): number[] {
    const [start, stop] = last === undefined ? [0, first] : [first, last];
    const count = Math.max(0, Math.ceil((stop - start) / step));
    if (!(count <= MAX_RANGE)) {
      throw new Failure("too_long", `range() of more than ${MAX_RANGE} values`);
    }
    return Array.from({ length: count }, (_, i) => start + i * step);
  },
  strftime_now: (format: unknown) => formatTime(new Date(), String(format)),
};

const MONTHS = "January February March April May June July August September October November " +
  "December";
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday";

/** The part of C's strftime that chat templates use, in English. */
function formatTime(time: Date, format: string): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const name = (names: string, index: number) => names.split(" ")[index] ?? "";
  const fields: Readonly<Record<string, () => string>> = {
    Y: () => String(time.getFullYear()),
    y: () => two(time.getFullYear() % 100),
    m: () => two(time.getMonth() + 1),
    d: () => two(time.getDate()),
    H: () => two(time.getHours()),
    M: () => two(time.getMinutes()),
    S: () => two(time.getSeconds()),
    B: () => name(MONTHS, time.getMonth()),
    b: () => name(MONTHS, time.getMonth()).slice(0, 3),
    A: () => name(DAYS, time.getDay()),
    a: () => name(DAYS, time.getDay()).slice(0, 3),
    "%": () => "%",
  };
  return format.replace(/%([A-Za-z%])/g, (text, field: string) => fields[field]?.() ?? text);
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 1000);
}
