import { assert, fc } from "std-testing";
import { DeviceError } from "../../src/gpu/device.ts";
import type { EngineEvent, RequestTimings } from "../../src/engine/types.ts";
import {
  collect,
  type Collected,
  expected,
  expectedScores,
  type FakeEngine,
  fakeEngine,
  type FakeOptions,
  prompt,
  request,
} from "./_fake_engine.ts";
import { FakePrefixes } from "./_fake_prefixes.ts";

function open(options: FakeOptions = {}): FakeEngine & { readonly prefixes: FakePrefixes } {
  const prefixes: FakePrefixes = new FakePrefixes(() => fake.runner);
  const fake = fakeEngine(options, { prefixes });
  return Object.assign(fake, { prefixes });
}

function timings({ events }: Collected): RequestTimings {
  const done = events.at(-1);
  assert.ok(done?.type === "done");
  return done.timings;
}

/** Prompt tokens that were found, and those that were prefilled. */
function counts(got: Collected): [cached: number, prefilled: number] {
  const { cachedTokens, promptTokens } = timings(got);
  return [cachedTokens, promptTokens];
}

const progress = (got: Collected) =>
  got.events.filter((event): event is EngineEvent & { type: "prefill" } => event.type === "prefill")
    .map(({ processed }) => processed);

Deno.test("a prompt that begins like an earlier one is prefilled from there on", async () => {
  const { engine, prefixes, runner, pool } = open();
  const first = request(prompt(100), 12);
  const one = await collect(engine.generate(first));
  assert.deepEqual(counts(one), [0, 100]);
  assert.deepEqual({ ids: one.ids, reason: one.end }, expected(first));
  const next = request([...prompt(80), ...prompt(30, 1)], 12);
  runner.calls.length = 0;
  const two = await collect(engine.generate(next));
  assert.deepEqual({ ids: two.ids, reason: two.end }, expected(next));
  assert.deepEqual(counts(two), [64, 46]);
  assert.deepEqual(progress(two), [64, 80, 96, 110]);
  const [call] = runner.calls;
  assert.ok(call?.kind === "prefill");
  assert.equal(call.chunk.start, 64);
  assert.equal(call.chunk.total, 110);
  assert.equal(pool.usage.pagesInUse, 0);
  assert.ok(prefixes.offered.length > 0);
  await engine.close();
});

Deno.test("one token of a prompt is always prefilled", async () => {
  const { engine, prefixes } = open();
  for (
    const [length, cached] of [[33, 32], [64, 32], [65, 64], [32, 0], [31, 0], [1, 0]] as const
  ) {
    const req = request(prompt(length, 7), 3);
    await collect(engine.generate(req));
    const again = await collect(engine.generate(request(prompt(length, 7), 3)));
    assert.deepEqual(counts(again), [cached, length - cached]);
    assert.deepEqual(again.ids, expected(req).ids);
  }
  // Prompts without a block to find are not looked up.
  assert.ok(prefixes.adopted.every((keys) => keys > 0));
  await engine.close();
});

Deno.test("the answer of a turn is found in the next one where it attended to everything", async () => {
  for (const [policy, cached] of [["dense", 96], ["streaming", 32]] as const) {
    const { engine } = open();
    const first = request(prompt(50), 60, { kv: { policy } });
    const { ids } = await collect(engine.generate(first));
    // 50 + 59 rows: the last token of an answer is never fed.
    const turns = [...first.promptIds, ...ids, 1, 2, 3];
    const second = await collect(engine.generate(request(turns, 4)));
    assert.deepEqual(counts(second), [cached, turns.length - cached]);
    assert.deepEqual(second.ids, expected(request(turns, 4)).ids);
    await engine.close();
  }
});

Deno.test("what a cancelled request has prefilled is found", async () => {
  const { engine } = open();
  for await (const event of engine.generate(request(prompt(90), 100))) {
    if (event.type === "token") break;
  }
  assert.deepEqual(counts(await collect(engine.generate(request(prompt(90), 1)))), [64, 26]);
  for await (const event of engine.generate(request(prompt(90, 5), 100))) {
    if (event.type === "prefill" && event.processed >= 64) break;
  }
  const again = await collect(engine.generate(request(prompt(90, 5), 1)));
  assert.ok(timings(again).cachedTokens >= 32);
  await engine.close();
});

Deno.test("requests that say so use nothing and leave nothing; salts keep apart", async () => {
  const { engine, prefixes } = open();
  const run = async (more: object) =>
    counts(await collect(engine.generate(request(prompt(70), 2, more))))[0];
  assert.equal(await run({ cachePrompt: false }), 0);
  assert.equal(prefixes.blocks.size, 0);
  assert.equal(await run({ cachePrompt: true }), 0);
  assert.equal(await run({ cachePrompt: false }), 0);
  assert.equal(await run({}), 64);
  assert.equal(await run({ cacheSalt: "a" }), 0);
  assert.equal(await run({ cacheSalt: "b" }), 0);
  assert.equal(await run({ cacheSalt: "a" }), 64);
  assert.equal(await run({ cacheSalt: "" }), 64);
  for (const more of [{ cachePrompt: 1 }, { cacheSalt: 1 }]) {
    const got = await collect(engine.generate(request([1], 1, more as object)));
    assert.equal(got.end, "invalid_request");
  }
  await engine.close();
});

Deno.test("log-probabilities of a prompt are computed, whatever is known of it", async () => {
  const { engine } = open();
  const req = () => request(prompt(70), 2, { promptLogprobs: 1 });
  await collect(engine.generate(req()));
  const got = await collect(engine.generate(req()));
  assert.deepEqual(counts(got), [0, 70]);
  assert.deepEqual(got.scores, expectedScores(req()));
  await engine.close();
});

Deno.test("prefixes are saved while nobody waits, and not once the engine ends", async () => {
  const { engine, prefixes } = open();
  await collect(engine.generate(request(prompt(200), 2)));
  for (let turns = 0; prefixes.numUnsaved > 0; turns++) {
    assert.ok(turns < 100, "nothing is saved");
    await new Promise((resolve) => setTimeout(resolve));
  }
  prefixes.numUnsaved = Infinity;
  const got = await collect(engine.generate(request(prompt(20), 2)));
  assert.equal(got.end, "length");
  // The loop goes on for as long as there is something to save; a request still gets in.
  assert.equal((await collect(engine.generate(request(prompt(20), 2)))).end, "length");
  await engine.close();
});

Deno.test("a prefix that cannot be brought takes its own request with it", async () => {
  const { engine, prefixes, pool } = open();
  await collect(engine.generate(request(prompt(70), 2)));
  prefixes.before = () => {
    throw new DeviceError("failed", "a copy broke");
  };
  assert.equal((await collect(engine.generate(request(prompt(70), 2)))).end, "internal");
  prefixes.before = () => {};
  assert.equal((await collect(engine.generate(request(prompt(70), 2)))).end, "length");
  assert.equal(pool.usage.pagesInUse, 0);
  await engine.close();
});

Deno.test("settle() ends what runs and closes files once, and leaves the device to close()", async () => {
  let settled = 0;
  const fake = fakeEngine({}, { settle: () => void settled++ });
  const running = collect(fake.engine.generate(request(prompt(20), 200)));
  await Promise.all([fake.engine.settle(), fake.engine.settle()]);
  assert.equal((await running).end, "cancelled");
  assert.deepEqual([settled, fake.disposed], [1, false]);
  assert.equal((await collect(fake.engine.generate(request([1], 1)))).end, "engine_closed");
  await fake.engine.close();
  await fake.engine.settle();
  assert.deepEqual([settled, fake.disposed], [1, true]);
});

Deno.test("whatever is shared, parked or cancelled, each sequence gives what it gives alone", async () => {
  const plan = fc.record({
    /** Blocks of a common beginning, and tokens after it. */
    common: fc.integer({ min: 0, max: 90 }),
    own: fc.integer({ min: 1, max: 40 }),
    salt: fc.integer({ min: 1, max: 3 }),
    maxTokens: fc.integer({ min: 0, max: 40 }),
    at: fc.integer({ min: 0, max: 20 }),
    leaveAfter: fc.option(fc.integer({ min: 0, max: 20 })),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 48 }),
      fc.integer({ min: 24, max: 60 }),
      fc.boolean(),
      fc.array(plan, { minLength: 1, maxLength: 8 }),
      async (maxSequences, prefillChunk, numPages, cannotPark, plans) => {
        const fake = open({ maxSequences, prefillChunk, numPages });
        fake.runner.cannotPark = cannotPark;
        fake.prefixes.before = () => new Promise((resolve) => setTimeout(resolve));
        await Promise.all(plans.map(async ({ common, own, salt, maxTokens, at, leaveAfter }) => {
          const req = request([...prompt(common), ...prompt(own, salt)], maxTokens);
          await new Promise((resolve) => setTimeout(resolve, at));
          const wanted = expected(req);
          const ids: number[] = [];
          for await (const event of fake.engine.generate(req)) {
            if (event.type === "token") ids.push(event.id);
            if (event.type === "error") assert.equal(event.error.code, "out_of_memory");
            if (event.type === "done") {
              const { cachedTokens, promptTokens } = event.timings;
              assert.equal(cachedTokens % 32, 0);
              assert.equal(cachedTokens + promptTokens, req.promptIds.length);
              assert.deepEqual(ids, wanted.ids);
            }
            if (leaveAfter !== null && ids.length > leaveAfter) break;
          }
          assert.deepEqual(ids, wanted.ids.slice(0, ids.length));
        }));
        await fake.engine.close();
        assert.equal(fake.pool.usage.pagesInUse, 0);
        assert.equal(fake.runner.numParked, 0);
        assert.deepEqual(fake.internalErrors, []);
      },
    ),
    { numRuns: 60 },
  );
});
