import { assert } from "std-testing";
import { CONTEXT_LENGTH, MAX_SEQUENCES, withTestEngine } from "./_engine.ts";
import { RawClient } from "./_raw.ts";
import { openFakeServer, type TestServer } from "./_server.ts";
import { post, streamCompletion, textOf } from "./_wire.ts";

const openTestServer = withTestEngine();
const LONG = { max_tokens: 400, ignore_eos: true };

/** Most time until a sequence whose client is gone has given everything back. */
const FREED_MS = 1000;

/** Waits until so many sequences run and wait; none of either also means that no page is held. */
async function reaches(server: TestServer, numRunning: number, numWaiting: number) {
  const deadline = performance.now() + FREED_MS;
  for (;;) {
    const { runningSequences, waitingSequences, pagesInUse } = await server.model.engine.stats();
    const isFree = numRunning > 0 || pagesInUse === 0;
    if (runningSequences === numRunning && waitingSequences === numWaiting && isFree) return;
    const seen = `${runningSequences} run, ${waitingSequences} wait, ${pagesInUse} pages`;
    assert.ok(performance.now() < deadline, `not ${numRunning} + ${numWaiting}: ${seen}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

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
async function witness(server: TestServer, numTokens: number): Promise<string> {
  const body = { prompt: "stays", temperature: 0, ignore_eos: true, max_tokens: numTokens };
  return textOf(await streamCompletion(server, body));
}

Deno.test("check 5: a client that leaves while its answer is decoded frees the sequence within 1 s", async () => {
  await using server = await openTestServer();
  const undisturbed = await witness(server, 200);
  const staying = witness(server, 200);
  const client = await openStream(server, { prompt: "goes", ...LONG }, 3);
  await reaches(server, 2, 0);
  client.abort();
  await reaches(server, 1, 0);
  assert.equal(await staying, undisturbed);
  await reaches(server, 0, 0);
});

Deno.test("check 5: a client that leaves during prefill frees the sequence within 1 s", async () => {
  const prompt = "p".repeat(CONTEXT_LENGTH - 200);
  const scripted = openFakeServer({ chunkMs: 300, contextLength: CONTEXT_LENGTH });
  for (const server of [await scripted, await openTestServer()]) {
    await using _ = server;
    const client = await openStream(server, { prompt, ...LONG }, 0);
    await reaches(server, 1, 0);
    client.abort();
    await reaches(server, 0, 0);
  }
});

Deno.test("check 5: a client that leaves during prefill disturbs nobody", async () => {
  await using server = await openTestServer();
  const prompt = "p".repeat(CONTEXT_LENGTH - 200);
  const undisturbed = await witness(server, 200);
  const staying = witness(server, 200);
  await reaches(server, 1, 0);
  const client = await openStream(server, { prompt, cache_prompt: false, ...LONG }, 0);
  await reaches(server, 2, 0);
  client.abort();
  await reaches(server, 1, 0);
  assert.equal(await staying, undisturbed);
  await reaches(server, 0, 0);
});

Deno.test("check 5: a client that leaves the queue is forgotten and disturbs nobody", async () => {
  await using server = await openTestServer();
  const running = Array.from({ length: MAX_SEQUENCES }, () => witness(server, 250));
  await reaches(server, MAX_SEQUENCES, 0);
  const queued = await openStream(server, { prompt: "goes", ...LONG }, 0);
  await reaches(server, MAX_SEQUENCES, 1);
  queued.abort();
  await reaches(server, MAX_SEQUENCES, 0);
  const texts = await Promise.all(running);
  assert.ok(texts.every((text) => text !== "" && text === texts[0]));
  await reaches(server, 0, 0);
});

Deno.test("a client that leaves before a whole answer is there frees all its sequences", async () => {
  await using server = await openTestServer();
  const client = new AbortController();
  const body = { prompt: ["a", "b", "c"], n: 2, ...LONG };
  const refused = assert.rejects(
    post(server, "/v1/completions", body, { signal: client.signal }),
  );
  await reaches(server, MAX_SEQUENCES, 6 - MAX_SEQUENCES);
  client.abort();
  await refused;
  await reaches(server, 0, 0);
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
  await reaches(server, 0, 0);
});

Deno.test("a client that leaves in the middle of its body leaves nothing behind", async () => {
  await using server = await openTestServer();
  for (const sent of ["", "{", '{"prompt":"x","max_tokens":400', '{"prompt":"x"}'.repeat(1000)]) {
    using client = await RawClient.connect(server);
    const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n";
    await client.write(head + sent);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await reaches(server, 0, 0);
  assert.notEqual(await witness(server, 4), "");
  assert.deepEqual(server.logged, []);
});
