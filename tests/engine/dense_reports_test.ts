import { KV_DEFAULTS } from "../../src/butler/settings.ts";
import { DenseReports } from "../../src/engine/dense_reports.ts";
import { assert } from "std-testing";

Deno.test("sequences that attend to everything report the mean of their rows, also after parking", () => {
  const totals = { bytes: 0 };
  const reports = new DenseReports(totals);
  const settings = { ...KV_DEFAULTS, policy: "dense" as const, neighbours: false, layers: [] };
  const tiers = () => ({ device: 7, host: 0, disk: 0 });
  assert.equal(reports.report(0, tiers), null);
  assert.equal(reports.tally(0), null);
  reports.begin(0, settings);
  assert.equal(reports.report(0, tiers)!.rowsPerStep, 0);
  reports.add(0, 10);
  reports.add(1, 99); // Somebody else counts for slot 1.
  const parked = reports.tally(0);
  reports.end(0);
  assert.equal(reports.report(0, tiers), null);
  reports.resume(1, parked!, 48);
  reports.add(1, 13);
  const report = reports.report(1, tiers)!;
  assert.equal(report.rowsPerStep, 11.5);
  assert.equal(report.bytesPerStep, 24);
  assert.equal(totals.bytes, 48);
  assert.equal(report.residentShare, 1);
  assert.deepEqual(report.tiers, tiers());
  // What comes back before the first step belongs to the prefill.
  reports.begin(2, settings);
  reports.resume(3, reports.tally(2)!, 48);
  reports.add(3, 10);
  assert.equal(reports.report(3, tiers)!.bytesPerStep, 0);
  assert.equal(totals.bytes, 48);
});
