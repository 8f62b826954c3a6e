/** What a benchmark prints: one line of JSON for each case, and a table for people. @module */
import type { CliIo } from "../src/cli/io.ts";
import { commit } from "../src/report/commit.ts";
import { round } from "./_stats.ts";

/** A value of a case. Numbers are rounded to four digits. */
export type CaseValue = string | number | null;

/** A case: names and values, in the order of the table's columns. */
export type Case = Readonly<Record<string, CaseValue>>;

/**
 * Collects the cases of a benchmark. JSON goes to standard output as soon as a case is known, the
 * table to standard error at the end.
 */
export class Report {
  readonly #io: CliIo;
  readonly #name: string;
  readonly #common: Case;
  readonly #cases: Case[] = [];
  readonly #lines: Case[] = [];

  /** @param common What all cases share (device, model); in the JSON, not in the table. */
  constructor(io: CliIo, name: string, common: Case) {
    this.#io = io;
    this.#name = name;
    this.#common = common;
  }

  add(entry: Case): void {
    const rounded = Object.fromEntries(
      Object.entries(entry).map(([key, value]) => [
        key,
        typeof value === "number" ? round(value) : value,
      ]),
    );
    this.#cases.push(rounded);
    const line = { bench: this.#name, ...rounded, ...this.#common, commit: commit() };
    this.#lines.push(line);
    this.#io.stdout(`${JSON.stringify(line)}\n`);
  }

  /** What went to standard output so far. */
  get lines(): readonly Case[] {
    return this.#lines;
  }

  /** Prints the table, with `notes` under it. */
  finish(notes: readonly string[] = []): void {
    const head = Object.entries(this.#common).map(([key, value]) => `${key} ${value}`).join(", ");
    const lines = [
      ``,
      `${this.#name}: ${head}, commit ${commit()}`,
      ...table(this.#cases),
      ...notes,
    ];
    this.#io.stderr(`${lines.join("\n")}\n`);
  }
}

/** Lines of a table: text to the left, numbers to the right. */
export function table(cases: readonly Case[]): string[] {
  const columns = [...new Set(cases.flatMap((entry) => Object.keys(entry)))];
  const cells = cases.map((entry) => columns.map((column) => `${entry[column] ?? ""}`));
  const widths = columns.map((column, index) =>
    Math.max(column.length, ...cells.map((row) => row[index]!.length))
  );
  const numeric = columns.map((column) =>
    cases.every((entry) => typeof (entry[column] ?? 0) === "number")
  );
  const pad = (text: string, index: number) =>
    numeric[index] ? text.padStart(widths[index]!) : text.padEnd(widths[index]!);
  return [columns, ...cells].map((row) => row.map(pad).join("  ").trimEnd());
}
