/** How a server comes up, drains and ends, over real sockets and the scripted engine. */
import { assert } from "std-testing";
import { createApp } from "../../src/server/app.ts";
import { serve } from "../../src/server/serve.ts";
import { FakeEngine, FakeTokenizer } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import {
  completionChunk,
  eventData,
  eventually,
  failure,
  post,
  postFailing,
  readChunks,
  textOf,
} from "./_wire.ts";

async function statuses({ url }: { url: string }): Promise<number[]> {
  const paths = ["/live", "/ready", "/health", "/v1/health"];
  return await Promise.all(paths.map(async (path) => {
    const response = await fetch(`${url}${path}`);
    await response.body?.cancel();
    return response.status;
  }));
}

async function open(drainMs: number) {
  const signal = new AbortController();
  const engine = new FakeEngine({ stepMs: 20, contextLength: 4096 });
  const model = { engine, tokenizer: new FakeTokenizer() };
  const app = createApp({ model, servedName: "tiny", version: "0" });
  const server = await serve(app, {
    host: "127.0.0.1",
    port: 0,
    graceMs: 500,
    drainMs,
    signal: signal.signal,
  });
  return { ...server, end: () => signal.abort() };
}

const STREAM = { prompt: "x", ignore_eos: true, stream: true };

Deno.test("/live is 200 throughout; /ready and /health while there is a model", async () => {
  const engine = new FakeEngine();
  const first = Promise.withResolvers<{ engine: FakeEngine }>();
  const app = createApp({ model: first.promise, servedName: "tiny", version: "0" });
  const server = await serve(app, { host: "127.0.0.1", port: 0 });
  assert.deepEqual(await statuses(server), [200, 503, 503, 503]);
  first.resolve({ engine });
  await first.promise;
  assert.deepEqual(await statuses(server), [200, 200, 200, 200]);
  engine.lose({ code: "device_lost", message: "the driver was reset" });
  await engine.lost;
  assert.deepEqual(await statuses(server), [200, 503, 503, 503]);
  const { code } = await postFailing(server, "/v1/completions", { prompt: [1] }, 503);
  assert.equal(code, "device_lost");
  const second = Promise.withResolvers<{ engine: FakeEngine }>();
  app.load(second.promise);
  assert.deepEqual(await statuses(server), [200, 503, 503, 503]);
  second.resolve({ engine: new FakeEngine() });
  await second.promise;
  assert.deepEqual(await statuses(server), [200, 200, 200, 200]);
  app.drain();
  assert.deepEqual(await statuses(server), [200, 503, 503, 503]);
  await server.shutdown();
});

Deno.test("an engine is known to be lost before a request finds out, whatever broke it", async () => {
  for (const code of ["device_lost", "engine_crashed", "internal"]) {
    await using server = await openFakeServer();
    server.engine.lose({ code, message: `gone: ${code}` });
    await server.engine.lost;
    assert.deepEqual(await statuses(server), [200, 503, 503, 503]);
    assert.deepEqual(server.logged, [`gone: ${code}`]);
  }
});

Deno.test("/ready is 200 only while a new request would be admitted", async () => {
  await using server = await openFakeServer({
    maxSequences: 1,
    stepMs: 20,
    app: { limits: { maxQueue: 1 } },
  });
  const body = { ...STREAM, max_tokens: 200 };
  const [running, queued] = [
    await post(server, "/v1/completions", body),
    await post(server, "/v1/completions", body),
  ];
  assert.deepEqual(await statuses(server), [200, 429, 200, 200]);
  await postFailing(server, "/v1/completions", { prompt: "x" }, 429);
  await queued?.body?.cancel();
  await eventually(async () => (await statuses(server))[1] === 200, 2000);
  await running?.body?.cancel();
});

Deno.test("news of an engine that was replaced changes nothing", async () => {
  const [old, next] = [new FakeEngine(), new FakeEngine()];
  const app = createApp({ model: { engine: old }, servedName: "tiny", version: "0" });
  app.load({ engine: next });
  old.lose({ code: "device_lost", message: "late" });
  await old.lost;
  assert.equal((await app.fetch(new Request("http://h/health"))).status, 200);
});

Deno.test("a drain lets a stream complete and refuses new requests", async () => {
  const server = await open(5000);
  const chunks = readChunks(
    completionChunk,
    await post(server, "/v1/completions", {
      ...STREAM,
      max_tokens: 20,
    }),
  );
  server.end();
  const refused = await post(server, "/v1/completions", { prompt: "y" });
  assert.equal(refused.status, 503);
  assert.ok(refused.headers.get("retry-after"));
  assert.equal(failure.parse(await refused.json()).error.code, "shutting_down");
  assert.deepEqual(await statuses(server), [200, 503, 503, 503]);
  const done = await chunks;
  assert.equal(done.at(-1)?.choices[0]?.finish_reason, "length");
  assert.ok(textOf(done).length > 10);
  await server.finished;
  await assert.rejects(fetch(`${server.url}/live`));
});

Deno.test("a drain does not wait for those who ask again and again how the server is", async () => {
  const server = await open(20_000);
  const stream = await post(server, "/v1/completions", { ...STREAM, max_tokens: 20 });
  server.end();
  let isOver = false;
  const asking = Array.from({ length: 8 }, async () => {
    while (!isOver) await statuses(server).catch(() => isOver = true);
  });
  const began = performance.now();
  await stream.text();
  await server.finished;
  assert.ok(performance.now() - began < 10_000, `${performance.now() - began} ms`);
  isOver = true;
  await Promise.all(asking);
});

Deno.test("a stream that outlasts the drain ends with an error event", async () => {
  const server = await open(300);
  const response = await post(server, "/v1/completions", { ...STREAM, max_tokens: 2000 });
  const text = response.text();
  const began = performance.now();
  server.end();
  const data = eventData(await text);
  assert.equal(data.pop(), "[DONE]");
  assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, "shutting_down");
  await server.finished;
  const tookMs = performance.now() - began;
  assert.ok(tookMs >= 290 && tookMs < 3000, `${tookMs} ms`);
});
