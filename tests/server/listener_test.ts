import { assert } from "std-testing";
import { Observer } from "../../src/observe/observer.ts";
import type { RefusedConnection, Sink } from "../../src/observe/types.ts";
import { createApp } from "../../src/server/app.ts";
import {
  type ConnectionLimits,
  DEFAULT_CONNECTION_LIMITS,
} from "../../src/server/listener/listener.ts";
import { serve } from "../../src/server/serve.ts";
import { FakeEngine, type FakeEngineOptions, FakeTokenizer } from "./_fake.ts";
import { parseResponse, RawClient } from "./_raw.ts";
import { eventData, eventually, failure, post } from "./_wire.ts";

async function open(limits: Partial<ConnectionLimits>, engine: FakeEngineOptions = {}) {
  const model = { engine: new FakeEngine(engine), tokenizer: new FakeTokenizer() };
  const refused: string[] = [];
  const refusals: RefusedConnection[] = [];
  const sink: Sink = {
    refused(connection) {
      refused.push(connection.code);
      refusals.push(connection);
    },
  };
  const observer = new Observer({ sinks: [sink] });
  const app = createApp({ model, servedName: "tiny", version: "0", observer });
  const server = await serve(app, {
    host: "127.0.0.1",
    port: 0,
    graceMs: 300,
    limits: { ...DEFAULT_CONNECTION_LIMITS, ...limits },
  });
  return Object.assign(server, {
    engine: model.engine,
    /** Why connections were closed before there was a request on them. */
    refused,
    refusals,
    [Symbol.asyncDispose]: () => server.shutdown(),
  });
}

/** Status and error of a response that came over a bare connection. */
function errorOf(text: string) {
  const { status, body, head } = parseResponse(text);
  assert.match(head, /content-type: application\/json/i);
  const id = head.match(/^x-request-id: (\S+)$/mi)?.[1];
  return { status, head, id, error: failure.parse(JSON.parse(body)).error };
}

Deno.test("a header that does not end in time is 408, and a connection that says nothing is closed", async () => {
  await using server = await open({ headerTimeoutMs: 400 });
  using slow = await RawClient.connect(server);
  using silent = await RawClient.connect(server);
  const started = performance.now();
  await slow.write("GET /health HTTP/1.1\r\nhost: x\r\n");
  const { status, error, id } = errorOf(await slow.readAll());
  assert.equal(status, 408);
  assert.equal(server.refusals[0]?.answer?.id, id);
  assert.equal(error.code, "request_timeout");
  // Not a word: a client that has it in store would take it for an answer.
  assert.equal(await silent.readAll(), "");
  // One that was opened and not used is nobody's fault.
  assert.deepEqual(server.refused, ["request_timeout"]);
  const waited = performance.now() - started;
  assert.ok(waited > 300 && waited < 3000, `${waited} ms`);
});

Deno.test("a request that came while the server itself was held up is told to come again", async () => {
  await using server = await open({ headerTimeoutMs: 200 });
  for (let round = 0; round < 3; round++) {
    using client = await RawClient.connect(server);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const writing = client.write("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    // Long past the deadline, when the check of deadlines is due before what lies there is read.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600);
    await writing;
    const { status, head, error } = errorOf(await client.readAll());
    assert.equal(status, 408);
    assert.equal(error.code, "request_timeout");
    assert.match(head, /x-should-retry: true/i);
  }
  assert.deepEqual(server.refused, ["request_timeout", "request_timeout", "request_timeout"]);
});

Deno.test("what is no HTTP is 400 and a header of 40 KB is 431, each closed, and others go on", async () => {
  await using server = await open({});
  for (
    const [sent, status, code] of [
      ["rubbish\r\n\r\n", 400, "invalid_http"],
      ["GET /health HTTP/1.1\r\n\r\n", 400, "invalid_http"],
      ["GET /health HTTP/1.1\r\nhost: a.1\r\n\r\n", 400, "invalid_http"],
      ["GET /health HTTP/1.1\r\nhost:\r\n\r\n", 400, "invalid_http"],
      ["GET /health HTTP/1.0\r\nhost: a.1\r\n\r\n", 400, "invalid_http"],
      ["GET /health HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400, "invalid_http"],
      ["GET /a b HTTP/1.0\r\n\r\n", 400, "invalid_http"],
      ["GET /health HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", 400, "invalid_http"],
      [
        `GET /health HTTP/1.1\r\nhost: x\r\nx: ${"x".repeat(40_000)}\r\n\r\n`,
        431,
        "header_too_large",
      ],
      [
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n" +
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_http",
      ],
    ] as const
  ) {
    using client = await RawClient.connect(server);
    await client.write(sent);
    const answer = errorOf(await client.readAll());
    assert.equal(answer.status, status, sent.slice(0, 40));
    assert.equal(answer.error.code, code);
    // Whoever is told has an id to ask about.
    assert.match(answer.id ?? "", /^[0-9a-f-]{36}$/);
    const told = { id: answer.id!, status };
    assert.deepEqual(server.refusals.pop(), { code, answer: told, peer: "127.0.0.1" });
    assert.deepEqual(server.refusals, [], "told twice");
  }
  assert.equal(await (await fetch(`${server.url}/health`)).text(), '{"status":"ok"}');
});

Deno.test("HTTP/1.0 needs no Host, and its answers end with their connection", async () => {
  await using server = await open({}, { reply: [72, 105, 257] });
  const ask = async (text: string) => {
    using client = await RawClient.connect(server);
    await client.write(text);
    return parseResponse(await client.readAll());
  };
  for (const method of ["GET", "HEAD"]) {
    const { status, body, head } = await ask(`${method} /health HTTP/1.0\r\n\r\n`);
    assert.equal(status, 200);
    assert.equal(body, method === "GET" ? '{"status":"ok"}' : "");
    assert.match(head, /^x-request-id: /mi);
  }
  const body = JSON.stringify({ prompt: "x", stream: true });
  const header = `POST /v1/completions HTTP/1.0\r\ncontent-length: ${body.length}\r\n\r\n`;
  const stream = await ask(header + body);
  assert.doesNotMatch(stream.head, /transfer-encoding/i);
  assert.equal(eventData(stream.body).at(-1), "[DONE]");
  assert.deepEqual(server.refusals, []);
});

Deno.test("an error of a connection is never put into an answer that is being written", async () => {
  await using server = await open({}, { stepMs: 30, contextLength: 4096 });
  using client = await RawClient.connect(server);
  const body = '{"prompt":"x","max_tokens":500,"ignore_eos":true,"stream":true}';
  await client.write(
    `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  assert.match(await client.read() ?? "", /^HTTP\/1\.1 200/);
  await client.write("rubbish\r\n\r\n");
  const rest = await client.readAll();
  assert.ok(!rest.includes("HTTP/1.1"), rest.slice(-200));
});

const streamed = (numTokens: number) => {
  const body = JSON.stringify({
    prompt: "x",
    max_tokens: numTokens,
    ignore_eos: true,
    stream: true,
  });
  return `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
};

Deno.test("nor into the second of two answers that were asked for at once", async () => {
  await using server = await open({}, { stepMs: 30, contextLength: 4096 });
  using client = await RawClient.connect(server);
  await client.write(`GET /live HTTP/1.1\r\nhost: x\r\n\r\n${streamed(500)}`);
  let text = "";
  while (!text.includes("data: ")) text += await client.read() ?? assert.fail(text);
  await client.write("rubbish\r\n\r\n");
  const rest = await client.readAll();
  assert.ok(!rest.includes("HTTP/1.1"), rest.slice(-200));
});

Deno.test("a client that leaves takes all of the requests along that it sent at once", async () => {
  await using server = await open({}, { stepMs: 30, contextLength: 4096 });
  {
    using client = await RawClient.connect(server);
    await client.write(streamed(500) + streamed(2000) + streamed(1));
    assert.match(await client.read() ?? "", /^HTTP\/1\.1 200/);
    assert.equal(server.numInFlight, 3);
  }
  await eventually(() => server.numInFlight === 0, 1000);
  await eventually(async () => {
    const { runningSequences, waitingSequences } = await server.engine.stats();
    return runningSequences + waitingSequences === 0;
  }, 1000);
});

Deno.test("a stream may last longer than a header", async () => {
  await using server = await open({ headerTimeoutMs: 300 }, { stepMs: 50, contextLength: 4096 });
  const body = { prompt: "x", max_tokens: 40, ignore_eos: true, stream: true };
  const data = eventData(await (await post(server, "/v1/completions", body)).text());
  assert.equal(data.at(-1), "[DONE]");
});

Deno.test("connections over the bound of an address get 429 with Retry-After, or are closed", async () => {
  await using server = await open({ maxConnectionsPerAddress: 2 });
  const request = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
  using first = await RawClient.connect(server);
  using second = await RawClient.connect(server);
  for (const client of [first, second]) {
    await client.write(request);
    assert.equal(parseResponse(await client.read() ?? "").status, 200);
  }
  using third = await RawClient.connect(server);
  await third.write(request);
  const { status, head, id, error } = errorOf(await third.readAll());
  assert.equal(status, 429);
  assert.deepEqual(server.refusals[0]?.answer, { id, status });
  assert.match(head, /retry-after: 1/i);
  assert.equal(error.code, "too_many_connections");
  assert.deepEqual(server.refused, ["too_many_connections"]);
  // Those that only wait are few: the rest is closed at once.
  const waiting = await Promise.all(Array.from({ length: 20 }, () => RawClient.connect(server)));
  const closed = await Promise.all(waiting.slice(-4).map((client) => client.readAll()));
  assert.deepEqual(closed, ["", "", "", ""]);
  assert.deepEqual(server.refusals.slice(-4).map(({ answer }) => answer), [null, null, null, null]);
  for (const client of waiting) client[Symbol.dispose]();
  await second.write(request);
  assert.equal(parseResponse(await second.read() ?? "").status, 200);
});
