/** What an engine counts of its work, whatever becomes of the sequences. */
import { BucketCounts } from "../../src/engine/bucket_counts.ts";
import { ROW_BOUNDS } from "../../src/engine/totals.ts";
import type { EngineEvent, RequestTimings } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { collect, fakeEngine, prompt, request } from "./_fake_engine.ts";

Deno.test("times and tokens of all sequences are those that they say themselves", async () => {
  const fake = fakeEngine({ maxSequences: 2, prefillChunk: 8, numPages: 9 });
  const { engine, runner } = fake;
  const given: RequestTimings[] = [];
  const requests = [10, 12, 17, 30, 9].map((length, i) => request(prompt(length, i), 25 + 4 * i));
  const left = requests[3]!;
  let decodes = 0;
  runner.before = async ({ kind }) => {
    if (kind === "decode" && ++decodes === 30) engine.cancel(left.id);
    await new Promise((resolve) => setTimeout(resolve, 1));
  };
  const all = await Promise.all(requests.map((req) => collect(engine.generate(req))));
  for (const { events } of all) given.push(doneOf(events).timings);
  const { totals, preemptions } = await engine.stats();
  // The room is for fewer than want it: time without a slot counts as it does for each of them.
  assert.ok(preemptions > 0);
  assert.ok(all.some(({ end }) => end === "cancelled"));
  const sum = (pick: (timings: RequestTimings) => number) =>
    given.reduce((total, timings) => total + pick(timings), 0);
  assert.equal(totals.generatedTokens, sum(({ predictedTokens }) => predictedTokens));
  assert.equal(totals.prefilledTokens, sum(({ promptTokens }) => promptTokens));
  assert.ok(Math.abs(totals.prefillMs - sum(({ promptMs }) => promptMs)) < 1e-6);
  assert.ok(Math.abs(totals.decodeMs - sum(({ predictedMs }) => predictedMs)) < 1e-6);
  await engine.close();
});

function doneOf(events: readonly EngineEvent[]) {
  const done = events.at(-1);
  assert.ok(done?.type === "done");
  return done;
}

Deno.test("times grow while a sequence runs, and count where it fails", async () => {
  const { engine, runner } = fakeEngine({ prefillChunk: 8 });
  const seen: number[] = [];
  let calls = 0;
  runner.before = async () => {
    const { prefillMs, decodeMs } = (await engine.stats()).totals;
    seen.push(prefillMs + decodeMs);
    await new Promise((resolve) => setTimeout(resolve, 2));
    if (++calls === 8) throw new Error("a kernel broke");
  };
  const got = await collect(engine.generate(request(prompt(30), 20)));
  assert.equal(got.end, "internal");
  seen.slice(1).forEach((ms, at) => assert.ok(ms > seen[at]!));
  const { totals } = await engine.stats();
  assert.ok(totals.prefillMs + totals.decodeMs > seen.at(-1)!);
  assert.deepEqual([totals.prefilledTokens, totals.generatedTokens], [30, 4]);
  await engine.close();
});

Deno.test("a sequence that is given up while it is parked reports its own rows", async () => {
  const { engine, runner } = fakeEngine({ maxSequences: 1 });
  runner.reports = true;
  const parked = request(prompt(20), 30, { kv: { policy: "streaming" } });
  const stream = engine.generate(parked);
  for (let tokens = 0; tokens < 3;) {
    if ((await stream.next()).value?.type === "token") tokens++;
  }
  engine.hold(parked.id, true);
  let decodes = 0;
  runner.before = ({ kind }) => {
    if (kind === "decode" && ++decodes === 3) engine.cancel(parked.id);
  };
  const other = await collect(engine.generate(request(prompt(9, 1), 5)));
  assert.equal(doneOf(other.events).kv?.policy, "dense");
  assert.equal(runner.numParks, 1);
  const done = doneOf((await collect(stream)).events);
  assert.equal(done.reason, "cancelled");
  // The slot, and what is said of it, was the other one's.
  assert.equal(done.kv?.policy, "streaming");
  // Nothing of it is on the device.
  assert.deepEqual(done.kv?.tiers, { device: 0, host: 22, disk: 0 });
  // Both decoded.
  const { rowsPerStep } = (await engine.stats()).totals;
  assert.equal(rowsPerStep.counts.reduce((sum, count) => sum + count), 2);
  await engine.close();
});

Deno.test("a sequence that is given up before it is prefilled again lies nowhere", async () => {
  const { engine, runner } = fakeEngine({ maxSequences: 1 });
  runner.reports = true;
  runner.cannotPark = true;
  const first = request(prompt(20), 30);
  const stream = engine.generate(first);
  for (let tokens = 0; tokens < 3;) {
    if ((await stream.next()).value?.type === "token") tokens++;
  }
  engine.hold(first.id, true);
  runner.before = ({ kind }) => {
    if (kind === "decode") engine.cancel(first.id);
  };
  await collect(engine.generate(request(prompt(9, 1), 5)));
  const done = doneOf((await collect(stream)).events);
  assert.deepEqual([done.reason, done.kv?.rowsPerStep], ["cancelled", 1]);
  assert.deepEqual(done.kv?.tiers, { device: 0, host: 0, disk: 0 });
  await engine.close();
});

Deno.test("a parked sequence that cannot be brought back reports what it did before", async () => {
  const { engine, runner } = fakeEngine({ maxSequences: 1 });
  runner.reports = true;
  runner.restore = () => Promise.reject(new Error("its rows are gone"));
  const parked = request(prompt(20), 30, { kv: { policy: "streaming" } });
  const stream = engine.generate(parked);
  for (let tokens = 0; tokens < 3;) {
    if ((await stream.next()).value?.type === "token") tokens++;
  }
  engine.hold(parked.id, true);
  await collect(engine.generate(request(prompt(9, 1), 5)));
  assert.equal(runner.numParks, 1);
  engine.hold(parked.id, false);
  const events = (await collect(stream)).events;
  assert.equal(events.at(-1)?.type, "error");
  // Both decoded, and the one that failed counts with the rows that it had.
  const { rowsPerStep } = (await engine.stats()).totals;
  assert.equal(rowsPerStep.counts.reduce((sum, count) => sum + count), 2);
  await engine.close();
});

Deno.test("figures count in the first bucket that holds them, or above all", () => {
  const counts = new BucketCounts([1, 8]);
  for (const figure of [0, 1, 1.5, 8, 9, 100]) counts.add(figure);
  assert.deepEqual(counts.now(), { counts: [2, 2, 2], sum: 119.5 });
  assert.deepEqual(ROW_BOUNDS.slice(0, 5), [1, 2, 5, 10, 20]);
  assert.equal(ROW_BOUNDS.at(-1), 1_000_000);
  assert.deepEqual(ROW_BOUNDS, ROW_BOUNDS.toSorted((one, other) => one - other));
});
