import { assert } from "std-testing";
import { merge } from "../../src/server/merge.ts";
import { openFakeServer, openTestServer, type TestServer } from "./_server.ts";
import {
  eventData,
  eventually,
  failure,
  post,
  postFailing,
  streamCompletion,
  textOf,
} from "./_wire.ts";

const messages = [{ role: "user", content: "hi" }];
const LONG = { max_tokens: 200, ignore_eos: true };

async function isIdle({ model: { engine } }: TestServer): Promise<boolean> {
  const { runningSequences, waitingSequences } = await engine.stats();
  return runningSequences === 0 && waitingSequences === 0;
}

Deno.test("a stream that fails half-way ends with an error event and [DONE]", async () => {
  await using server = openFakeServer({ failAt: () => 3 });
  for (
    const [path, body] of [
      ["/v1/completions", { prompt: "x" }],
      ["/v1/chat/completions", { messages }],
    ] as const
  ) {
    const response = await post(server, path, { ...body, stream: true });
    assert.equal(response.status, 200);
    const data = eventData(await response.text());
    assert.equal(data.pop(), "[DONE]");
    const { error } = failure.parse(JSON.parse(data.pop() ?? ""));
    assert.equal(error.message, "a kernel broke");
    assert.equal(error.type, "server_error");
    assert.equal(error.code, "internal");
    assert.ok(data.length >= 3);
  }
  assert.deepEqual(server.logged, ["a kernel broke", "a kernel broke"]);
  assert.ok(await isIdle(server));
});

Deno.test("an answer that fails is an error response with the engine's reason", async () => {
  const cases = [
    ["internal", 500],
    ["device_lost", 503],
    ["engine_crashed", 503],
    ["out_of_memory", 503],
    ["invalid_request", 400],
  ] as const;
  for (const [code, status] of cases) {
    await using server = openFakeServer({ failAt: () => 3, failure: { code, message: "no" } });
    const error = await postFailing(server, "/v1/completions", { prompt: "x" }, status);
    assert.equal(error.code, code);
    assert.equal(error.message, "no");
  }
});

Deno.test("an unforeseen error is a 500 that tells nothing of the machine", async () => {
  await using server = openFakeServer();
  server.engine.generate = () => {
    throw new Error("/secret/path");
  };
  const error = await postFailing(server, "/v1/completions", { prompt: "x" }, 500);
  assert.equal(error.code, "internal");
  assert.ok(!error.message.includes("secret"));
  assert.equal(server.logged.length, 1);
});

Deno.test("when one of several choices fails the others are cancelled", async () => {
  await using server = openFakeServer({
    stepMs: 2,
    failAt: ({ sampling }) => sampling.seed === 1 ? 3 : undefined,
  });
  const body = { prompt: "x", n: 3, seed: 0, ...LONG };
  await postFailing(server, "/v1/completions", body, 500);
  await eventually(() => isIdle(server), 1000);
  const stream = await post(server, "/v1/completions", { ...body, stream: true });
  assert.equal(eventData(await stream.text()).at(-1), "[DONE]");
  await eventually(() => isIdle(server), 1000);
});

Deno.test("merge() gives an error at once, however much the other sources have to say", async () => {
  async function* endless() {
    for (let n = 0;; n++) {
      await Promise.resolve();
      yield n;
    }
  }
  const broken = (async function* () {
    yield -1;
    throw new Error("broken");
  })();
  let count = 0;
  await assert.rejects(async () => {
    for await (const _ of merge([endless(), broken, endless()])) count++;
  }, /broken/);
  assert.ok(count < 20, `${count} values before the error`);
});

/** Opens a stream and reads until `numChunks` have come. */
async function openStream(server: TestServer, body: object, numChunks: number) {
  const client = new AbortController();
  const response = await post(server, "/v1/completions", { ...body, stream: true }, {
    signal: client.signal,
  });
  const reader = response.body?.getReader();
  for (let seen = 0; seen < numChunks; seen++) await reader?.read();
  return client;
}

/** A client that stays, and what it gets. */
async function witness(server: TestServer): Promise<string> {
  const body = { prompt: "stays", temperature: 0, ...LONG, max_tokens: 60 };
  return textOf(await streamCompletion(server, body));
}

Deno.test("a client that leaves while its answer is decoded frees the sequence within 1 s", async () => {
  await using server = await openTestServer();
  const undisturbed = await witness(server);
  const staying = witness(server);
  const client = await openStream(server, { prompt: "goes", ...LONG }, 3);
  client.abort();
  await eventually(async () => (await server.model.engine.stats()).runningSequences <= 1, 1000);
  assert.equal(await staying, undisturbed);
  await eventually(() => isIdle(server), 1000);
});

Deno.test("a client that leaves during prefill frees the sequence within 1 s", async () => {
  await using server = openFakeServer({ chunkMs: 300, contextLength: 512, stepMs: 1 });
  const client = await openStream(server, { prompt: "p".repeat(300), ...LONG }, 0);
  await eventually(async () => (await server.engine.stats()).runningSequences === 1, 1000);
  client.abort();
  await eventually(() => isIdle(server), 1000);
});

Deno.test("a client that leaves the queue is forgotten and disturbs nobody", async () => {
  await using server = openFakeServer({ maxSequences: 1, stepMs: 10, contextLength: 512 });
  const running = witness(server);
  await eventually(async () => (await server.engine.stats()).runningSequences === 1, 1000);
  const queued = await openStream(server, { prompt: "goes", ...LONG }, 0);
  await eventually(async () => (await server.engine.stats()).waitingSequences === 1, 1000);
  queued.abort();
  await eventually(async () => (await server.engine.stats()).waitingSequences === 0, 1000);
  assert.equal((await server.engine.stats()).runningSequences, 1);
  assert.ok((await running).length > 0);
  await eventually(() => isIdle(server), 1000);
});

Deno.test("a client that leaves before a whole answer is there frees all its sequences", async () => {
  await using server = openFakeServer({ maxSequences: 2, stepMs: 20 });
  const client = new AbortController();
  const body = { prompt: ["a", "b"], n: 2, ...LONG };
  const request = post(server, "/v1/completions", body, { signal: client.signal });
  const refused = assert.rejects(request);
  await eventually(async () => {
    const { runningSequences, waitingSequences } = await server.engine.stats();
    return runningSequences === 2 && waitingSequences === 2;
  }, 1000);
  client.abort();
  await refused;
  await eventually(() => isIdle(server), 1000);
  assert.deepEqual(server.logged, []);
});

Deno.test("a storm of clients that leave at any time leaves nothing behind", async () => {
  await using server = await openTestServer();
  const waits = Array.from({ length: 30 }, (_, nth) => (nth * 37) % 120);
  await Promise.all(waits.map(async (waitMs, nth) => {
    const client = new AbortController();
    const timer = setTimeout(() => client.abort(), waitMs);
    try {
      const body = { prompt: "x".repeat(1 + nth * 5), ...LONG, stream: nth % 3 !== 0 };
      await (await post(server, "/v1/completions", body, { signal: client.signal })).text();
    } catch {
      // What was left half-way rejects; what was done in time does not.
    } finally {
      clearTimeout(timer);
    }
  }));
  await eventually(() => isIdle(server), 1000);
});
