/** What a run says of its KV cache, for people. @module */
import type { KvReport } from "../butler/settings.ts";
import type { CliIo } from "./io.ts";

/** Prints the notes and, unless everything was attended to, one line on standard error. */
export function printKv(io: CliIo, report: KvReport | null): void {
  if (report === null) return;
  for (const note of report.notes) io.stderr(`note: ${note}\n`);
  if (report.policy === "dense") return;
  const { policy, rowsPerStep, residentShare } = report;
  io.stderr(
    `KV cache: ${policy}, ${Math.round(rowsPerStep)} rows a step, ` +
      `${(residentShare * 100).toFixed(1)} % of the wanted rows resident\n`,
  );
}
