/** What `doctor` writes. @module */
import { wrap } from "../../help.ts";
import type { CliIo } from "../../io.ts";

/** Collects lines; a section that throws does not keep the next one from being tried. */
export class Report {
  failed = false;

  constructor(private readonly io: CliIo) {}

  async section<T>(title: string, body: () => Promise<T>): Promise<T | undefined> {
    this.io.stdout(`\n${title}\n`);
    try {
      return await body();
    } catch (error) {
      this.problem(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  row(name: string, value: string): void {
    this.io.stdout(`  ${name.padEnd(28)} ${wrap(value, 31)}\n`);
  }

  note(text: string): void {
    this.io.stdout(`${text}\n`);
  }

  problem(text: string): void {
    this.failed = true;
    this.io.stdout(`  ${wrap(`PROBLEM: ${text}`, 4)}\n`);
  }
}
