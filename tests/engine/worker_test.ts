import { assert } from "std-testing";
import type { KvRequest } from "../../src/butler/settings.ts";
import { DeviceError } from "../../src/gpu/device.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { DEFAULT_CACHE, type EngineOptions, type LoadProgress } from "../../src/engine/types.ts";
import { WorkerEngine, type WorkerEngineHooks } from "../../src/engine/worker_client.ts";
import { collect, expected, expectedScores, prompt, request } from "./_fake_engine.ts";

function optionsOf(modelPath: string, contextLength = 256): EngineOptions {
  return {
    modelPath,
    contextLength,
    maxSequences: 4,
    kvType: "f16",
    prefillChunk: null,
    kernelOverrides: {},
    ...DEFAULT_CACHE,
  };
}

function start(
  modelPath = "works",
  hooks: WorkerEngineHooks = {},
  contextLength = 256,
): Promise<WorkerEngine> {
  const url = new URL("./_fake_worker.ts", import.meta.url);
  const worker = new Worker(url, { type: "module" });
  return WorkerEngine.start(worker, optionsOf(modelPath, contextLength), hooks);
}

async function within<T>(ms: number, work: () => Promise<T>): Promise<T> {
  const begin = performance.now();
  const result = await work();
  const took = performance.now() - begin;
  assert.ok(took < ms, `took ${took.toFixed(0)} ms, at most ${ms} are allowed`);
  return result;
}

Deno.test("WorkerEngine gives the tokens, scores and ends that the engine gives in process", async () => {
  const progress: LoadProgress[] = [];
  const engine = await start("works", { onProgress: (p) => void progress.push(p) });
  assert.deepEqual(progress.map(({ phase }) => phase), ["weights", "ready"]);
  assert.equal(engine.info.model.name, "fake");
  const requests = [40, 1, 16, 17, 90, 3, 8].map((length, i) =>
    request(prompt(length, i), 40 - i, { promptLogprobs: 1, stopTokenIds: [i], logprobs: 0 })
  );
  const all = await Promise.all(requests.map((req) => collect(engine.generate(req))));
  all.forEach((got, i) => {
    const req = requests[i]!;
    assert.deepEqual({ ids: got.ids, reason: got.end }, expected(req));
    assert.deepEqual(got.scores, expectedScores(req));
  });
  const { decodeSteps, decodedRows, stepSizes, slots, totals, ...load } = await engine.stats();
  const empty = { bytes: 0, capacityBytes: 0 };
  assert.deepEqual(load, {
    runningSequences: 0,
    waitingSequences: 0,
    pagesInUse: 0,
    numPages: 128,
    parkedSequences: 0,
    preemptions: 0,
    cachedBlocks: 0,
    tiers: { device: empty, host: empty, disk: empty },
  });
  assert.ok(decodeSteps > 0 && decodedRows >= decodeSteps);
  // Every prompt is prefilled once, in pieces.
  assert.equal(stepSizes.sum, decodedRows + 40 + 1 + 16 + 17 + 90 + 3 + 8);
  assert.equal(totals.prefilledTokens, 40 + 1 + 16 + 17 + 90 + 3 + 8);
  const generated = all.reduce((sum, { ids }) => sum + ids.length, 0);
  assert.equal(totals.generatedTokens, generated);
  assert.ok(stepSizes.counts.reduce((sum, count) => sum + count) >= decodeSteps + requests.length);
  assert.ok(
    slots.length > 0 && slots.every(({ running, kept }) => running === null && kept === null),
  );
  await engine.close();
});

Deno.test("a predictor's table crosses to the client and back, and what a request says of it", async () => {
  const engine = await start("has a table");
  const { budgetTable, canPredict } = engine.info.kv;
  assert.ok(canPredict);
  assert.deepEqual(budgetTable?.points.map(({ mean }) => mean), [4, 60]);
  const run = async (kv: KvRequest) => {
    const { events } = await collect(engine.generate(request(prompt(9), 3, { kv })));
    const last = events.at(-1);
    assert.ok(last?.type === "done", JSON.stringify(last));
    return last.kv?.settings;
  };
  const used = await run({ policy: "tokenbutler" });
  assert.deepEqual(used?.budgetTable, budgetTable);
  assert.deepEqual(used?.layers.map(({ role }) => role), ["window", "selected"]);
  assert.equal((await run({ policy: "tokenbutler", table: false }))?.budgetTable, undefined);
  assert.equal((await run({ policy: "quest" }))?.budgetTable, undefined);
  const bad = { policy: "tokenbutler", table: 1 } as unknown as KvRequest;
  const { events } = await collect(engine.generate(request(prompt(9), 3, { kv: bad })));
  assert.match(JSON.stringify(events), /`kv\.table` must be true, false or an object/);
  await engine.close();
});

Deno.test("WorkerEngine passes the errors of a start on, with name, code and message", async () => {
  await assert.rejects(start("bad model"), (error: unknown) => {
    assert.ok(error instanceof ModelFileError);
    assert.deepEqual([error.name, error.code, error.path, error.message], [
      "ModelFileError",
      "truncated",
      "some.gguf",
      "some.gguf ends early",
    ]);
    return true;
  });
  await assert.rejects(start("bad device"), (error: unknown) => {
    assert.ok(error instanceof DeviceError);
    assert.deepEqual([error.name, error.code, error.message], [
      "DeviceError",
      "no_adapter",
      "no adapter was found",
    ]);
    return true;
  });
  await assert.rejects(start("bug"), { name: "TypeError", message: "not a function" });
  await assert.rejects(start("dies while loading"), {
    name: "EngineGoneError",
    code: "engine_crashed",
    message: /out of luck/,
  });
});

Deno.test("WorkerEngine.start() ends the worker of a start that fails, unless the process ends", async () => {
  const url = new URL("./_fake_worker.ts", import.meta.url);
  const fail = async (hooks: WorkerEngineHooks) => {
    const worker = new Worker(url, { type: "module" });
    const terminate = worker.terminate.bind(worker);
    let ended = false;
    worker.terminate = () => void (ended = true);
    const starting = WorkerEngine.start(worker, optionsOf("bad device"), hooks);
    await assert.rejects(starting, { name: "DeviceError" });
    terminate();
    return ended;
  };
  assert.equal(await fail({}), true);
  assert.equal(await fail({ leaveFailed: true }), false);
});

Deno.test("WorkerEngine.start() refuses a worker module that cannot be loaded", async () => {
  const worker = new Worker(new URL("./_no_such_worker.ts", import.meta.url), { type: "module" });
  await assert.rejects(WorkerEngine.start(worker, optionsOf("works")), { code: "engine_crashed" });
});

Deno.test("WorkerEngine.hold() lets others go past a request, which goes on later", async () => {
  const engine = await start("works");
  const slow = request(prompt(9), 200);
  const stream = engine.generate(slow);
  const seen: number[] = [];
  while (seen.length < 2) {
    const { value } = await stream.next();
    if (value?.type === "token") seen.push(value.id);
  }
  engine.hold(slow.id, true);
  await engine.stats();
  const { decodeSteps } = await engine.stats();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal((await engine.stats()).decodeSteps, decodeSteps);
  engine.hold(slow.id, false);
  for await (const event of stream) if (event.type === "token") seen.push(event.id);
  assert.deepEqual(seen, expected(slow).ids);
  await engine.close();
});

Deno.test("WorkerEngine ends what is pending with engine_crashed when its worker dies", async () => {
  const engine = await start("crashes");
  const running = [0, 1, 2, 3, 4, 5].map((i) => collect(engine.generate(request(prompt(9, i), 5))));
  const stats = engine.stats();
  stats.catch(() => {});
  for (const { events, end } of await Promise.all(running)) {
    assert.equal(end, "engine_crashed");
    const last = events.at(-1);
    assert.match(last?.type === "error" ? last.error.message : "", /a bug far from any request/);
  }
  assert.equal((await collect(engine.generate(request([1], 1)))).end, "engine_crashed");
  await assert.rejects(engine.stats(), { code: "engine_crashed" });
  await within(1000, () => engine.close());
});

Deno.test("WorkerEngine reports a lost device to everyone and lives on", async () => {
  const engine = await start("loses its device");
  const all = await Promise.all(
    [0, 1].map((i) => collect(engine.generate(request(prompt(9, i), 5)))),
  );
  assert.deepEqual(all.map(({ end }) => end), ["device_lost", "device_lost"]);
  assert.equal((await collect(engine.generate(request([1], 1)))).end, "device_lost");
  assert.equal((await engine.stats()).pagesInUse, 0);
  await engine.close();
});

for (const how of ["blocks", "loops"]) {
  Deno.test(`WorkerEngine.close() ends a worker that ${how} within a second`, async () => {
    const engine = await start(how);
    const running = collect(engine.generate(request(prompt(9), 5)));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await within(1000, () => engine.close());
    assert.equal((await running).end, "engine_closed");
    assert.equal((await collect(engine.generate(request([1], 1)))).end, "engine_closed");
    await assert.rejects(engine.stats(), { code: "engine_closed" });
  });
}

Deno.test("WorkerEngine gives up a worker whose device hangs, at work and at its start", async () => {
  const hangMs = 400;
  const hang = async (how: string) => {
    const engine = await start(how, { hangMs });
    const running = collect(engine.generate(request(prompt(9), 5)));
    const last = (await within(5000, () => running)).events.at(-1);
    assert.ok(last?.type === "error");
    assert.equal(last.error.code, "engine_crashed");
    assert.match(last.error.message, /seems to hang: nothing was completed for 0\.4 s/);
    assert.deepEqual(await engine.lost, last.error);
    await engine.close();
  };
  const never = assert.rejects(start("never starts", { hangMs, startHangMs: 200 }), {
    code: "engine_crashed",
    message: /seems to hang/,
  });
  await Promise.all([hang("blocks"), hang("never calls back"), never]);
});

Deno.test("WorkerEngine.settle() ends what runs, and does not wait for ever", async () => {
  const engine = await start("works", {}, 100_000);
  const running = collect(engine.generate(request(prompt(9), 90_000)));
  await new Promise((resolve) => setTimeout(resolve, 20));
  await within(700, () => engine.settle());
  assert.equal((await running).end, "cancelled");
  await engine.close();
  await engine.settle();

  const stuck = await start("blocks", { settleWithinMs: 50 });
  const lost = collect(stuck.generate(request(prompt(9), 5)));
  await new Promise((resolve) => setTimeout(resolve, 50));
  await within(500, () => stuck.settle());
  await stuck.close();
  assert.equal((await lost).end, "engine_closed");
});

Deno.test("WorkerEngine.close() cancels what runs", async () => {
  const engine = await start("works", {}, 100_000);
  const running = collect(engine.generate(request(prompt(9), 90_000)));
  await new Promise((resolve) => setTimeout(resolve, 20));
  await within(700, () => engine.close());
  assert.equal((await running).end, "cancelled");
});

Deno.test("WorkerEngine frees a sequence when its consumer leaves or it is cancelled", async () => {
  const engine = await start("works", {}, 100_000);
  const left = request(prompt(9), 90_000);
  let count = 0;
  for await (const event of engine.generate(left)) {
    if (event.type === "token" && ++count === 5) break;
  }
  // Its id is free at once, although the worker may not have heard of it.
  const again = collect(engine.generate({ ...left, maxTokens: 3 }));
  assert.deepEqual((await again).ids, expected({ ...left, maxTokens: 3 }).ids);

  const cancelled = collect(engine.generate(left));
  await new Promise((resolve) => setTimeout(resolve, 5));
  engine.cancel(left.id);
  engine.cancel(left.id);
  engine.cancel("never heard of");
  assert.equal((await within(500, () => cancelled)).end, "cancelled");
  const { runningSequences, pagesInUse } = await engine.stats();
  assert.deepEqual([runningSequences, pagesInUse], [0, 0]);
  await engine.close();
});

Deno.test("WorkerEngine cancels in a worker whose thread is busy all the time", async () => {
  const engine = await start("is busy", {}, 4000);
  // Steps that went by between a cancel and its answer; other programs may cost some of them.
  const steps: number[] = [];
  for (let i = 0; i < 7; i++) {
    const req = request(prompt(5), 3000);
    let count = 0;
    let cancelledAt = 0;
    for await (const event of engine.generate(req)) {
      if (event.type !== "token" || ++count !== 10 + i) continue;
      engine.cancel(req.id);
      cancelledAt = count;
    }
    steps.push(count - cancelledAt);
  }
  steps.sort((a, b) => a - b);
  assert.ok(steps[3]! <= 3, `steps after a cancel: ${steps}`);
  await engine.close();
});

Deno.test("WorkerEngine refuses bad requests without asking for trouble", async () => {
  const engine = await start();
  const req = request([1, 2], 30);
  const running = collect(engine.generate(req));
  const ends = await Promise.all([
    collect(engine.generate(req)),
    collect(engine.generate(null as unknown as typeof req)),
    collect(engine.generate(request([1, 1000], 3))),
    collect(engine.generate({ ...request([1], 3), stopTokenIds: (() => {}) as never })),
  ]);
  assert.deepEqual(ends.map(({ end }) => end), new Array(4).fill("invalid_request"));
  assert.deepEqual((await running).ids, expected(req).ids);
  await engine.close();
});
