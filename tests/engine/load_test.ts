/** Cancelling, giving way, fairness, and random load on the whole loop. */
import { assert, fc } from "std-testing";
import { type EngineEvent, GREEDY } from "../../src/engine/types.ts";
import {
  collect,
  expected,
  expectedScores,
  type FakeCall,
  type FakeEngine,
  fakeEngine,
  prompt,
  request,
} from "./_fake_engine.ts";

function slotsOf(call: FakeCall): number[] {
  return call.kind === "decode" ? call.rows.map(({ slot }) => slot) : [call.chunk.slot];
}

/** Makes each call take a few turns of the event loop, as a device that is awaited does. */
function slow(fake: FakeEngine, meanwhile: (call: FakeCall, index: number) => void): void {
  let index = 0;
  fake.runner.before = async (call) => {
    await new Promise((resolve) => setTimeout(resolve));
    meanwhile(call, index++);
    await new Promise((resolve) => setTimeout(resolve));
  };
}

for (const way of ["cancel()", "leaving the loop"]) {
  Deno.test(`LocalEngine frees a sequence within one step: ${way} in prefill or decode`, async () => {
    for (const phase of ["prefill", "decode"] as const) {
      const fake = fakeEngine({ maxSequences: 2, prefillChunk: 8 });
      const { engine, pool, runner } = fake;
      const other = request(prompt(5, 1), 40);
      const others = collect(engine.generate(other));
      const victim = request(prompt(phase === "prefill" ? 60 : 9, 2), 60);
      const stream = engine.generate(victim);
      const seen: EngineEvent[] = [];
      let cancelledAt: number | null = null;
      let left = false;
      slow(fake, (call, index) => {
        const ofVictim = call.kind === phase && slotsOf(call).includes(1);
        if (!ofVictim || cancelledAt !== null || index < 8) return;
        cancelledAt = index;
        left = true;
        if (way === "cancel()") engine.cancel(victim.id);
        else stream.return!();
        // The rows that the device writes now are still the sequence's own.
        assert.ok(pool.pageCount(1) > 0);
      });
      for await (const event of stream) seen.push(event);
      assert.ok(left, "was not cancelled");
      const calls = runner.calls.slice(cancelledAt! + 1);
      await others;
      assert.ok(calls.every((call) => !slotsOf(call).includes(1)), "ran on");
      const last = seen.at(-1);
      if (way === "cancel()") assert.ok(last?.type === "done" && last.reason === "cancelled");
      else assert.notEqual(last?.type, "done");
      assert.deepEqual((await others).ids, expected(other).ids);
      assert.equal(pool.usage.pagesInUse, 0);
      await engine.close();
    }
  });
}

Deno.test("LocalEngine drops a cancelled request from the queue at once", async () => {
  const fake = fakeEngine({ maxSequences: 1 });
  const { engine, runner } = fake;
  const first = collect(engine.generate(request(prompt(30), 30)));
  const queued = request(prompt(31), 5);
  const second = collect(engine.generate(queued));
  const third = request(prompt(32), 5);
  const thirds = collect(engine.generate(third));
  let waiting = -1;
  slow(fake, (_, index) => {
    if (index !== 3) return;
    engine.cancel(queued.id);
    engine.stats().then((stats) => waiting = stats.waitingSequences);
  });
  const { events, end } = await second;
  assert.deepEqual([events.length, end], [1, "cancelled"]);
  const done = events[0]!;
  assert.ok(done.type === "done" && done.timings.queueMs > 0 && done.timings.promptMs === 0);
  assert.equal(runner.calls.length, 4);
  assert.equal((await first).end, "length");
  assert.equal(waiting, 1);
  assert.deepEqual((await thirds).ids, expected(third).ids);
  await engine.close();
});

for (const cannotPark of [false, true]) {
  const how = cannotPark ? "are prefilled again" : "are parked";
  Deno.test(`LocalEngine gives the same tokens and scores to sequences that ${how}`, async () => {
    await checkGivingWay(cannotPark);
  });
}

async function checkGivingWay(cannotPark: boolean): Promise<void> {
  const fake = fakeEngine({ maxSequences: 4, numPages: 14, pageSize: 4, prefillChunk: 8 });
  const { engine, pool, runner } = fake;
  runner.cannotPark = cannotPark;
  const sampling = { ...GREEDY, temperature: 0.5, seed: 77 };
  const requests = [
    request(prompt(8, 0), 30),
    request(prompt(9, 1), 30, { sampling, logprobs: 1 }),
    request(prompt(30, 2), 20, { promptLogprobs: 2 }),
    request(prompt(20, 3), 10, { forcedIds: prompt(10, 9), promptLogprobs: 0 }),
  ];
  const all = await Promise.all(requests.map((req) => collect(engine.generate(req))));
  all.forEach((got, i) => {
    const req = requests[i]!;
    assert.deepEqual({ ids: got.ids, reason: got.end }, expected(req), `request ${i}`);
    if (req.promptLogprobs !== null) assert.deepEqual(got.scores, expectedScores(req));
    const done = got.events.at(-1)!;
    assert.ok(done.type === "done" && done.timings.promptTokens === req.promptIds.length);
    assert.equal(done.timings.predictedTokens, req.maxTokens);
  });
  const fromStart = runner.calls.filter((c) => c.kind === "prefill" && c.chunk.start === 0);
  if (cannotPark) assert.ok(fromStart.length > requests.length, "nobody had to give way");
  else {
    assert.ok(runner.numParks > 0, "nobody had to give way");
    assert.equal(fromStart.length, requests.length);
  }
  assert.equal(runner.numParked, 0);
  assert.equal(pool.usage.pagesInUse, 0);
  await engine.close();
}

Deno.test("LocalEngine never lets a running stream wait for more than one small chunk", async () => {
  const { engine, runner } = fakeEngine(
    { maxSequences: 4, prefillChunk: 64, contextLength: 2048 },
    { scheduling: { sharedPrefillChunk: 16 } },
  );
  const stream = engine.generate(request(prompt(4), 60));
  const long: Promise<unknown>[] = [];
  let count = 0;
  for await (const event of stream) {
    if (event.type !== "token") continue;
    if (++count === 5) {
      for (const salt of [1, 2]) {
        long.push(collect(engine.generate(request(prompt(500, salt), 2))));
      }
    }
  }
  const isStream = (call: FakeCall) => call.kind === "decode" && slotsOf(call).includes(0);
  const last = runner.calls.findLastIndex(isStream);
  const calls = runner.calls.slice(runner.calls.findIndex(isStream), last);
  assert.ok(calls.filter(({ kind }) => kind === "prefill").length > 20);
  calls.forEach((call, i) => {
    if (call.kind === "decode") return;
    assert.ok(call.chunk.tokens.length <= 16);
    assert.ok(i === 0 || isStream(calls[i - 1]!), "two chunks in a row");
  });
  await Promise.all(long);
  await engine.close();
});

Deno.test("LocalEngine stays right under random arrivals, cancels and limits", async () => {
  const plan = fc.record({
    at: fc.integer({ min: 0, max: 25 }),
    numPrompt: fc.integer({ min: 1, max: 30 }),
    salt: fc.integer({ min: 0, max: 3 }),
    maxTokens: fc.integer({ min: 0, max: 20 }),
    minTokens: fc.integer({ min: 0, max: 6 }),
    stopTokenIds: fc.array(fc.integer({ min: 0, max: 30 }), { maxLength: 8 }),
    bannedTokenIds: fc.array(fc.integer({ min: 30, max: 96 }), { maxLength: 8 }),
    temperature: fc.constantFrom(0, 1),
    promptLogprobs: fc.constantFrom(null, 0, 2),
    /** Calls after which it is cancelled, or its consumer leaves. */
    leave: fc.option(fc.record({ after: fc.integer({ min: 0, max: 20 }), quietly: fc.boolean() })),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 16 }),
      fc.integer({ min: 13, max: 40 }),
      fc.array(plan, { minLength: 1, maxLength: 10 }),
      async (maxSequences, prefillChunk, numPages, plans) => {
        const fake = fakeEngine({
          maxSequences,
          prefillChunk,
          numPages,
          pageSize: 4,
          contextLength: 64,
        });
        const { engine, pool, runner } = fake;
        const results: Promise<void>[] = [];
        let index = 0;
        const actions: { at: number; act: () => void }[] = plans.map((p) => ({
          at: p.at,
          act: () => {
            const req = request(prompt(p.numPrompt, p.salt), p.maxTokens, {
              ...p,
              sampling: { ...GREEDY, temperature: p.temperature, seed: 5 },
            });
            const stream = engine.generate(req);
            const got = collect(stream);
            let left = false;
            if (p.leave !== null) {
              const { after, quietly } = p.leave;
              actions.push({
                at: index + after,
                act: () => {
                  left = true;
                  if (quietly) stream.return!();
                  else engine.cancel(req.id);
                },
              });
            }
            results.push(got.then(
              ({ ids, scores, end }) => {
                const want = expected(req);
                if (end === "cancelled") assert.ok(left);
                else assert.equal(end, want.reason);
                assert.deepEqual(
                  ids,
                  end === "cancelled" ? want.ids.slice(0, ids.length) : want.ids,
                );
                const wanted = req.promptLogprobs === null ? [] : expectedScores(req);
                assert.deepEqual(scores, wanted.slice(0, scores.length));
                assert.ok(end === "cancelled" || scores.length === wanted.length);
              },
              // A consumer that left has no end to see.
              (error: Error) => assert.ok(left && /without an end/.test(error.message), error),
            ));
          },
        }));
        const actOn = () => {
          for (const due of actions.filter(({ at }) => at <= index)) {
            actions.splice(actions.indexOf(due), 1);
            due.act();
          }
        };
        runner.before = () => {
          pool.checkInvariants();
          index++;
          actOn();
        };
        while (actions.length > 0 || results.length < plans.length) {
          actOn();
          await Promise.all(results);
          // Idle: the clock of the plan goes on.
          index++;
        }
        await Promise.all(results);
        const stats = await engine.stats();
        assert.deepEqual([stats.runningSequences, stats.waitingSequences], [0, 0]);
        assert.equal(stats.pagesInUse, 0);
        pool.checkInvariants();
        assert.deepEqual(fake.internalErrors, []);
        await engine.close();
      },
    ),
    { seed: 5, numRuns: 150 },
  );
});
