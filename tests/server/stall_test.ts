/** Clients that stop reading: their sequences make room, and are given up in the end. */
import { assert } from "std-testing";
import { type AppOptions, createApp } from "../../src/server/app.ts";
import { MAX_SEQUENCES, withTestEngine } from "./_engine.ts";
import { HUGE, openDeafClient, parseResponse, RawClient } from "./_raw.ts";
import { DEFAULT_CONNECTION_LIMITS } from "../../src/server/listener/listener.ts";
import { openFakeServer, SERVED_NAME, type TestServer } from "./_server.ts";
import { completionChunk, eventually, postCompletion, readChunks, textOf } from "./_wire.ts";

const openTestServer = withTestEngine();
/** Calls the application without a socket, so that nothing lies between it and the reader. */
function ask(server: TestServer, body: object, options: Partial<AppOptions>) {
  const app = createApp({ model: server.model, servedName: SERVED_NAME, version: "0", ...options });
  return app.fetch(
    new Request("http://localhost/v1/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
}

Deno.test("check 17: a client that stops reading is parked for others, and given up after the stall timeout", async () => {
  await using server = await openTestServer({ pace: { slowMs: 100, stallMs: 10_000 } });
  const { engine } = server.model;
  const other = { prompt: "stays", temperature: 0, ignore_eos: true, max_tokens: 60 };
  const undisturbed = (await postCompletion(server, other)).choices[0]?.text;
  const socket = await openDeafClient(server, HUGE);
  // All slots are taken, until the client is found to be deaf and nothing gets on any more.
  let steps = -1;
  await eventually(async () => {
    const before = steps;
    await new Promise((resolve) => setTimeout(resolve, 500));
    steps = (await engine.stats()).decodeSteps;
    return steps === before;
  }, 60_000);
  const idle = await engine.stats();
  assert.equal(idle.runningSequences, MAX_SEQUENCES);
  assert.ok(idle.waitingSequences > 0);
  // Others get its room.
  assert.equal((await postCompletion(server, other)).choices[0]?.text, undisturbed);
  await eventually(async () => {
    const { runningSequences, waitingSequences, pagesInUse } = await engine.stats();
    return runningSequences + waitingSequences + pagesInUse === 0;
  }, 15_000);
  // Should it read on after all, it learns why there is no more.
  let tail = "";
  for await (const text of socket.readable.pipeThrough(new TextDecoderStream())) {
    tail = (tail + text).slice(-2000);
  }
  assert.match(tail, /data: \{"error":\{.*"code":"client_stalled"\}\}\n\n[^:]*data: \[DONE\]\n\n/s);
  assert.deepEqual(server.logged, []);
});

Deno.test("a connection on which nothing is read is closed, one that is read slowly is not", async () => {
  await using server = await openFakeServer({
    connections: { ...DEFAULT_CONNECTION_LIMITS, unreadMs: 400 },
  });
  // More than sockets take in: a dozen megabytes.
  const numTokens = 512 * 1024;
  server.tokenizer.encode = () => new Array<number>(numTokens).fill(97);
  const body = JSON.stringify({ content: "a", with_pieces: true });
  const ask = "POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" +
    `content-length: ${body.length}\r\n\r\n${body}`;
  using deaf = await RawClient.connect(server);
  await deaf.write(ask);
  const beginning = await deaf.read();
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const cut = parseResponse(beginning + await deaf.readAll());
  const length = (head: string) => Number(head.match(/content-length: (\d+)/i)?.[1]);
  assert.equal(cut.status, 200);
  assert.ok(length(cut.head) > 8e6 && cut.body.length < length(cut.head));
  // Who reads, be it slowly, gets all of it.
  using slow = await RawClient.connect(server);
  await slow.write(ask);
  let text = "";
  let numReads = 0;
  for (let part = await slow.read(); part !== undefined; part = await slow.read()) {
    text += part;
    if (++numReads % 20 === 0 && numReads < 300) await new Promise((go) => setTimeout(go, 100));
  }
  const whole = parseResponse(text);
  assert.equal(whole.body.length, length(whole.head));
  assert.equal(JSON.parse(whole.body).tokens.length, numTokens);
  assert.deepEqual(server.logged, []);
});

Deno.test("a client that pauses and reads on gets the whole answer, also when it was parked", async () => {
  await using server = await openTestServer();
  const { engine } = server.model;
  // Every choice has a slot, so whoever comes in between needs one of these.
  const body = { prompt: "stays", n: MAX_SEQUENCES, seed: 1, ignore_eos: true, max_tokens: 200 };
  const texts = (await postCompletion(server, body)).choices.map(({ text }) => text);
  const pace = { slowMs: 20, stallMs: 60_000 };
  const response = await ask(server, { ...body, stream: true }, { pace });
  let steps = -1;
  await eventually(async () => {
    const before = steps;
    await new Promise((resolve) => setTimeout(resolve, 100));
    steps = (await engine.stats()).decodeSteps;
    return steps === before;
  }, 10_000);
  assert.equal((await engine.stats()).runningSequences, MAX_SEQUENCES);
  await postCompletion(server, { ...body, n: 1, prompt: "comes", max_tokens: 20 });
  const { runningSequences, waitingSequences } = await engine.stats();
  assert.deepEqual([runningSequences, waitingSequences], [MAX_SEQUENCES - 1, 1]);
  const chunks = await readChunks(completionChunk, response);
  assert.deepEqual(texts.map((_, index) => textOf(chunks, index)), texts);
});

Deno.test("every choice of a slow client is held, and let go on when it reads", async () => {
  await using server = await openFakeServer({ stepMs: 1 });
  const body = { prompt: "x", n: 3, max_tokens: 200, ignore_eos: true, stream: true };
  const response = await ask(server, body, { pace: { slowMs: 20, stallMs: null } });
  await eventually(() => server.engine.held.length === 3, 2000);
  const reader = response.body?.getReader();
  await reader?.read();
  await reader?.read();
  await eventually(() => server.engine.held.length === 0, 2000);
  await reader?.cancel();
});
