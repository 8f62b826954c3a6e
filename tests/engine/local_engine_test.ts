import type { KvCache } from "../../src/kv/types.ts";
import { assert } from "std-testing";
import { DeviceError } from "../../src/gpu/device.ts";
import { type EngineEvent, type GenerateRequest, GREEDY } from "../../src/engine/types.ts";
import {
  collect,
  expected,
  expectedScores,
  fakeEngine,
  prompt,
  request,
  VOCAB,
} from "./_fake_engine.ts";

function timings(events: readonly EngineEvent[]) {
  const done = events.at(-1);
  assert.ok(done?.type === "done");
  return done.timings;
}

function errorMessage(events: readonly EngineEvent[]): string {
  const last = events.at(-1);
  assert.ok(last?.type === "error");
  return last.error.message;
}

Deno.test("LocalEngine runs a prompt of several chunks and its answer", async () => {
  const { engine, pool, runner } = fakeEngine();
  const req = request(prompt(40), 12);
  const got = await collect(engine.generate(req));
  assert.deepEqual({ ids: got.ids, reason: got.end }, expected(req));
  const prefills = got.events.filter((event) => event.type === "prefill");
  assert.deepEqual(
    prefills.map(({ ms: _, ...event }) => event),
    [16, 32, 40].map((processed) => ({
      type: "prefill",
      processed,
      total: 40,
      cached: 0,
      policy: "dense",
    })),
  );
  assert.ok(prefills.every(({ ms }, at) => ms >= (prefills[at - 1]?.ms ?? 0)));
  assert.deepEqual(runner.calls.map((call) => call.kind), [
    ...new Array(3).fill("prefill"),
    ...new Array(11).fill("decode"),
  ]);
  const { promptTokens, cachedTokens, predictedTokens, ...ms } = timings(got.events);
  assert.deepEqual([promptTokens, cachedTokens, predictedTokens], [40, 0, 12]);
  assert.ok(Object.values(ms).every((value) => value >= 0 && value < 5000), JSON.stringify(ms));
  assert.equal(pool.usage.pagesInUse, 0);
  assert.equal((await engine.stats()).decodeSteps, 11);
  await engine.close();
});

Deno.test("LocalEngine gives each of many sequences what it gets alone", async () => {
  const { engine, pool, runner } = fakeEngine({ maxSequences: 3 });
  const requests = [40, 1, 16, 17, 90, 3, 8].map((length, i) => request(prompt(length, i), 20 - i));
  const all = await Promise.all(requests.map((req) => collect(engine.generate(req))));
  all.forEach((got, i) => {
    assert.deepEqual({ ids: got.ids, reason: got.end }, expected(requests[i]!));
  });
  assert.ok(runner.calls.some((call) => call.kind === "decode" && call.rows.length === 3));
  assert.equal(pool.usage.pagesInUse, 0);
  await engine.close();
});

Deno.test("LocalEngine lets sequences join and leave a running batch", async () => {
  const { engine } = fakeEngine({ maxSequences: 3 });
  const requests: GenerateRequest[] = [];
  const running: Promise<{ ids: number[]; end: string }>[] = [];
  const start = (req: GenerateRequest) => {
    requests.push(req);
    running.push(collect(engine.generate(req)));
  };
  const first = request(prompt(20), 60);
  requests.push(first);
  const ids: number[] = [];
  for await (const event of engine.generate(first)) {
    if (event.type !== "token") continue;
    ids.push(event.id);
    if (ids.length % 10 === 0) start(request(prompt(ids.length, 3), 25));
  }
  const rest = await Promise.all(running);
  assert.deepEqual(ids, expected(first).ids);
  rest.forEach((got, i) => assert.deepEqual(got.ids, expected(requests[i + 1]!).ids));
  await engine.close();
});

Deno.test("LocalEngine stops at stop ids, but not before minTokens", async () => {
  const { engine } = fakeEngine();
  const free = request(prompt(9), 40);
  const { ids } = expected(free);
  const stopTokenIds = [ids[5]!];
  const at = ids.indexOf(ids[5]!);
  const stopped = await collect(engine.generate(request(prompt(9), 40, { stopTokenIds })));
  assert.deepEqual([stopped.ids, stopped.end], [ids.slice(0, at + 1), "stop"]);

  const late = request(prompt(9), 40, { stopTokenIds, minTokens: 7 });
  const got = await collect(engine.generate(late));
  assert.deepEqual({ ids: got.ids, reason: got.end }, expected(late));
  assert.ok(!got.ids.slice(0, 7).includes(stopTokenIds[0]!));
  await engine.close();
});

Deno.test("LocalEngine never samples banned ids", async () => {
  const { engine } = fakeEngine();
  const { ids } = expected(request(prompt(9), 30));
  const req = request(prompt(9), 30, { bannedTokenIds: ids.slice(0, 6) });
  const got = await collect(engine.generate(req));
  assert.deepEqual(got.ids, expected(req).ids);
  assert.ok(got.ids.every((id) => !req.bannedTokenIds.includes(id)));
  await engine.close();
});

Deno.test("LocalEngine hands penalties and bias to the runner as they stand at each token", async () => {
  const { engine, runner } = fakeEngine();
  const sampling = { ...GREEDY, presencePenalty: 0.5, logitBias: [[96, -1]] as const };
  const { ids } = await collect(engine.generate(request([1, 2], 3, { sampling })));
  const specs = runner.calls.map((c) => c.kind === "decode" ? c.rows[0]!.sample : c.chunk.sample);
  specs.forEach((spec, step) => {
    const want = new Map([[96, -1]]);
    for (const id of new Set(ids.slice(0, step))) want.set(id, (want.get(id) ?? 0) - 0.5);
    assert.deepEqual(new Map(spec!.adjustments.map(({ id, bias, add }) => [id, bias + add])), want);
  });
  await engine.close();
});

Deno.test("LocalEngine feeds forced ids and looks at no stop id", async () => {
  const { engine, runner } = fakeEngine();
  const forcedIds = [5, 6, 7, 5, 5];
  const req = request(prompt(4), 5, { forcedIds, stopTokenIds: [6], logprobs: 2 });
  const got = await collect(engine.generate(req));
  assert.deepEqual([got.ids, got.end], [forcedIds, "length"]);
  const tokens = got.events.filter((event) => event.type === "token");
  assert.ok(tokens.every(({ id, logprob }) => logprob?.id === id && logprob.top.length === 2));
  assert.equal(runner.calls.filter((call) => call.kind === "decode").length, 4);
  await engine.close();
});

Deno.test("LocalEngine numbers the tokens of an answer for the random numbers", async () => {
  const { engine } = fakeEngine();
  const sampling = { ...GREEDY, temperature: 1, seed: 4_000_000_000 };
  const req = request(prompt(20), 15, { sampling });
  assert.deepEqual((await collect(engine.generate(req))).ids, expected(req).ids);
  await engine.close();
});

Deno.test("LocalEngine scores prompts of any length, with and without an answer", async () => {
  const { engine } = fakeEngine();
  for (const [length, maxTokens] of [[1, 0], [1, 2], [2, 0], [16, 0], [17, 0], [40, 0], [33, 3]]) {
    const req = request(prompt(length!), maxTokens!, { promptLogprobs: 3 });
    const got = await collect(engine.generate(req));
    assert.deepEqual(got.scores, expectedScores(req), `length ${length}`);
    assert.deepEqual({ ids: got.ids, reason: got.end }, expected(req));
  }
  const plain = await collect(engine.generate(request(prompt(20), 0)));
  assert.deepEqual([plain.ids, plain.end, timings(plain.events).promptTokens], [[], "length", 20]);
  await engine.close();
});

Deno.test("LocalEngine refuses bad requests with an event and stays alive", async () => {
  const { engine } = fakeEngine({ contextLength: 64 });
  const good = request([1, 2, 3], 4);
  const bad: [unknown, RegExp][] = [
    [null, /no object/],
    [{ ...good, id: "" }, /id/],
    [{ ...good, promptIds: [] }, /empty/],
    [{ ...good, promptIds: [1, VOCAB] }, /promptIds\[1\] is 97: token ids go from 0 to 96/],
    [{ ...good, promptIds: [-1] }, /promptIds/],
    [{ ...good, promptIds: [1.5] }, /promptIds/],
    [{ ...good, promptIds: new Array(3) }, /promptIds/],
    [{ ...good, promptIds: "abc" }, /promptIds/],
    [{ ...good, promptIds: prompt(61) }, /61 tokens and 4 more .* holds 64/],
    [{ ...good, maxTokens: -1 }, /maxTokens/],
    [{ ...good, maxTokens: NaN }, /maxTokens/],
    [{ ...good, minTokens: 0.5 }, /minTokens/],
    [{ ...good, stopTokenIds: [VOCAB] }, /stopTokenIds/],
    [{ ...good, bannedTokenIds: null }, /bannedTokenIds/],
    [{ ...good, logprobs: 21 }, /logprobs/],
    [{ ...good, promptLogprobs: -1 }, /promptLogprobs/],
    [{ ...good, forcedIds: [1, 2] }, /2 tokens are forced/],
    [{ ...good, forcedIds: [1, 2, 3, VOCAB] }, /forcedIds/],
    [{ ...good, sampling: null }, /sampling/],
    [{ ...good, sampling: { ...GREEDY, temperature: NaN } }, /temperature/],
    [{ ...good, sampling: { ...GREEDY, topP: 2 } }, /topP/],
    [{ ...good, sampling: { ...GREEDY, seed: -1 } }, /seed/],
    [{ ...good, sampling: { ...GREEDY, logitBias: [[VOCAB, 1]] } }, /logitBias/],
    [{ ...good, sampling: { ...GREEDY, logitBias: [[1, NaN]] } }, /logitBias/],
    [{ ...good, sampling: { ...GREEDY, logitBias: [[1, Infinity]] } }, /logitBias/],
    [{ ...good, sampling: { ...GREEDY, logitBias: [1] } }, /logitBias/],
    [{ ...good, kv: null }, /`kv` must be an object/],
    [{ ...good, kv: [] }, /`kv` must be an object/],
    [
      { ...good, kv: { sinks: -1 } },
      /`kv.sinks` must be a whole number from 0 to 65536, but is -1/,
    ],
    [{ ...good, kv: { denseLayers: 3 } }, /`kv.dense_layers` must be at most 2/],
    [{ ...good, kv: { policy: "loki" } }, /calibrate/],
    [{ ...good, kv: { table: { layers: [{ role: "dense" }] } } }, /must have 2 entries/],
    [{ ...good, kv: { table: "off" } }, /`kv.table` must be true, false or an object/],
  ];
  for (const [req, message] of bad) {
    const { events, end } = await collect(engine.generate(req as GenerateRequest));
    assert.equal(end, "invalid_request");
    assert.equal(events.length, 1);
    assert.match(errorMessage(events), message);
  }
  const got = await Promise.all([
    collect(engine.generate(good)),
    collect(engine.generate({ ...good, maxTokens: 1 })),
  ]);
  assert.deepEqual(got.map(({ end }) => end), ["length", "invalid_request"]);
  await engine.close();
});

Deno.test("LocalEngine makes no tokens for a held request, and goes on with it later", async () => {
  const { engine } = fakeEngine({ maxSequences: 1 });
  const [slow, other] = [request(prompt(20), 30), request(prompt(9, 1), 5)];
  const stream = engine.generate(slow);
  const seen: number[] = [];
  for (let tokens = 0; tokens < 3;) {
    const { value } = await stream.next();
    if (value?.type !== "token") continue;
    seen.push(value.id);
    tokens++;
  }
  engine.hold(slow.id, true);
  // There is one slot, and the held one gives it away.
  assert.deepEqual((await collect(engine.generate(other))).ids, expected(other).ids);
  const { decodeSteps } = await engine.stats();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal((await engine.stats()).decodeSteps, decodeSteps);
  engine.hold("nobody", true);
  engine.hold(slow.id, false);
  for await (const event of stream) if (event.type === "token") seen.push(event.id);
  assert.deepEqual(seen, expected(slow).ids);
  await engine.close();
});

Deno.test("LocalEngine refuses what the whole cache could not hold", async () => {
  const { engine } = fakeEngine({ numPages: 4, pageSize: 8 });
  const { end, events } = await collect(engine.generate(request(prompt(30), 4)));
  assert.equal(end, "out_of_memory");
  const last = events.at(-1);
  assert.ok(last?.type === "error" && last.error.lasting);
  // The last token needs no row: 30 + 3 tokens just fit.
  const fits = request(prompt(30), 3);
  assert.deepEqual((await collect(engine.generate(fits))).ids, expected(fits).ids);
  await engine.close();
});

Deno.test("LocalEngine ends one request when a slot holds less than the cache", async () => {
  const fake = fakeEngine({ contextLength: 64, pageSize: 8 });
  // A cache that promises more than it gives.
  const kv: KvCache = {
    usage: fake.pool.usage,
    canBegin: (slot, need) => need.numRows <= 40 && fake.pool.canBegin(slot, need),
    begin: (slot, need) => fake.pool.begin(slot, need),
    canReserve: (slot: number, rows: number) => rows <= 40 && fake.pool.canReserve(slot, rows),
    reserve: (slot: number, rows: number) => fake.pool.reserve(slot, rows),
    release: (slot: number) => fake.pool.release(slot),
  };
  const { engine } = fakeEngine({}, { runner: fake.runner, kv });
  const [long, short] = await Promise.all([
    collect(engine.generate(request(prompt(30), 30))),
    collect(engine.generate(request(prompt(30), 5))),
  ]);
  assert.equal(long.end, "out_of_memory");
  assert.equal(short.end, "length");
  assert.equal(fake.pool.usage.pagesInUse, 0);
  await engine.close();
});

Deno.test("LocalEngine fails the requests of a step that fails, and no other", async () => {
  const { engine, runner, pool, internalErrors } = fakeEngine({ maxSequences: 2 });
  let failed = false;
  runner.before = (call) => {
    if (failed || call.kind !== "decode" || call.rows.length < 2) return;
    failed = true;
    throw new Error("kernel went wrong");
  };
  const requests = [0, 1, 2].map((i) => request(prompt(12, i), 8));
  const all = await Promise.all(requests.map((req) => collect(engine.generate(req))));
  assert.deepEqual(all.map(({ end }) => end), ["internal", "internal", "length"]);
  assert.deepEqual(all[2]!.ids, expected(requests[2]!).ids);
  assert.equal(internalErrors.length, 1);
  assert.equal(pool.usage.pagesInUse, 0);

  runner.before = () => {
    throw new DeviceError("out_of_memory", "no room for a buffer");
  };
  assert.equal((await collect(engine.generate(request([1], 2)))).end, "out_of_memory");
  runner.before = () => {};
  assert.equal((await collect(engine.generate(request([1], 2)))).end, "length");
  await engine.close();
});

Deno.test("LocalEngine ends everything when the device is lost", async () => {
  const { engine, runner, pool } = fakeEngine({ maxSequences: 2 });
  let steps = 0;
  runner.before = () => {
    if (++steps === 6) throw new DeviceError("lost", "the driver was reset");
  };
  const all = await Promise.all(
    [0, 1, 2, 3].map((i) => collect(engine.generate(request(prompt(12, i), 30)))),
  );
  for (const { events, end } of all) {
    assert.equal(end, "device_lost");
    assert.match(errorMessage(events), /driver was reset/);
  }
  assert.equal((await collect(engine.generate(request([1], 2)))).end, "device_lost");
  assert.equal(pool.usage.pagesInUse, 0);
  await engine.close();
});

Deno.test("LocalEngine.markLost() ends requests and close() although a step hangs", async () => {
  const fake = fakeEngine({ maxSequences: 1 });
  const hangs = Promise.withResolvers<void>();
  fake.runner.before = () => {
    hangs.resolve();
    return new Promise(() => {});
  };
  const running = [0, 1].map((i) => collect(fake.engine.generate(request(prompt(9, i), 9))));
  await hangs.promise;
  fake.engine.markLost("unplugged");
  assert.deepEqual((await Promise.all(running)).map(({ end }) => end), [
    "device_lost",
    "device_lost",
  ]);
  assert.equal((await collect(fake.engine.generate(request([1], 2)))).end, "device_lost");
  await fake.engine.close();
  assert.equal(fake.disposed, true);
});

Deno.test("LocalEngine refuses what a runner must not return", async () => {
  for (const token of [VOCAB, -1, 0.5, NaN]) {
    const fake = fakeEngine();
    const { runner } = fake;
    runner.decode = () => Promise.resolve([{ token, logprob: null }]);
    const { engine, internalErrors } = fakeEngine({}, { runner, kv: fake.pool });
    assert.equal((await collect(engine.generate(request([1, 2], 3)))).end, "internal");
    assert.equal(internalErrors.length, 1);
    assert.equal(fake.pool.usage.pagesInUse, 0);
    await engine.close();
  }
});

Deno.test("LocalEngine.close() cancels what runs, frees the device once, takes nothing more", async () => {
  const fake = fakeEngine({ maxSequences: 1 });
  const running = [0, 1].map((i) => collect(fake.engine.generate(request(prompt(50, i), 100))));
  await new Promise((resolve) => setTimeout(resolve, 2));
  await Promise.all([fake.engine.close(), fake.engine.close()]);
  assert.equal(fake.disposed, true);
  assert.deepEqual((await Promise.all(running)).map(({ end }) => end), ["cancelled", "cancelled"]);
  assert.equal((await collect(fake.engine.generate(request([1], 1)))).end, "engine_closed");
  assert.equal(fake.pool.usage.pagesInUse, 0);
});
