import { assert } from "std-testing";
import { SlotError } from "../../src/kv/store/errors.ts";
import { createLogger } from "../../src/observe/logger.ts";
import { Observer } from "../../src/observe/observer.ts";
import { requestLog } from "../../src/observe/request_log.ts";
import { FakeTokenizer, REPLY_TEXT } from "./_fake.ts";
import { parseResponse, RawClient } from "./_raw.ts";
import { type FakeServerOptions, openFakeServer } from "./_server.ts";
import { eventually, post } from "./_wire.ts";

/** A server that logs JSON, and its lines. */
async function openLogged(
  options: FakeServerOptions = {},
  { texts = false, level = "info" }: { texts?: boolean; level?: "debug" | "info" } = {},
) {
  const raw: string[] = [];
  const logger = createLogger({ format: "json", level, write: (line) => raw.push(line) });
  const tokenizer = new FakeTokenizer();
  const sink = requestLog(logger, texts ? (ids) => tokenizer.decode(ids) : null);
  const observer = new Observer({ sinks: [sink], keepIds: texts });
  const log = {
    error: (message: string, _cause: unknown, id?: string) =>
      logger.log("error", message, { request_id: id }),
  };
  const server = await openFakeServer({ ...options, app: { ...options.app, observer, log } });
  return Object.assign(server, {
    raw,
    cut: () => observer.cut(),
    lines: () => raw.map((line) => JSON.parse(line)),
  });
}

const SECRET = "my secret";
const messages = [{ role: "user", content: SECRET }];

Deno.test("a request is one line, with the id that the client got back", async () => {
  await using server = await openLogged();
  const chat = await post(server, "/v1/chat/completions", { messages, max_tokens: 3 });
  await chat.body?.cancel();
  const named = await fetch(`${server.url}/v1/models`, { headers: { "x-request-id": "mine" } });
  await named.body?.cancel();
  const [first, second, ...rest] = server.lines();
  assert.deepEqual(rest, []);
  assert.equal(first.request_id, chat.headers.get("x-request-id"));
  assert.equal(first.message, "request");
  assert.equal(first.route, "/v1/chat/completions");
  assert.equal(first.method, "POST");
  assert.equal(first.status, 200);
  assert.equal(first.generated_tokens, 3);
  assert.equal(first.outcome, "length");
  assert.ok(first.prompt_tokens > 0 && first.ms >= 0 && first.first_token_ms >= 0);
  assert.equal("error" in first, false);
  assert.equal(second.request_id, "mine");
  assert.equal(second.route, "/v1/models");
});

Deno.test("no text of a prompt or an answer is logged unless it is asked for", async () => {
  await using quiet = await openLogged({}, { level: "debug" });
  await using chatty = await openLogged({}, { texts: true });
  for (const server of [quiet, chatty]) {
    const response = await post(server, "/v1/chat/completions", { messages });
    await response.body?.cancel();
    const refused = await post(server, "/v1/chat/completions", { messages, temperature: SECRET });
    await refused.body?.cancel();
  }
  assert.ok(!quiet.raw.join("").includes(SECRET));
  assert.ok(!quiet.raw.join("").includes(REPLY_TEXT));
  const line = chatty.lines().find(({ message }) => message === "sequence");
  assert.ok(line.prompt.includes(SECRET));
  assert.ok(line.answer.includes(REPLY_TEXT));
});

Deno.test("a request that is refused says why and what it asked for, also where nobody may ask", async () => {
  const guard = { apiKeys: ["key"], allowedHosts: [], corsOrigins: [] };
  await using server = await openLogged({ app: { guard } });
  const ask = async (path: string, headers: string, method = "GET") => {
    using client = await RawClient.connect(server);
    await client.write(`${method} ${path} HTTP/1.1\r\nconnection: close\r\n${headers}\r\n`);
    const { head } = parseResponse(await client.readAll());
    const { route, status, error, request_id: id } = server.lines().at(-1);
    assert.equal(id, head.match(/^x-request-id: (\S+)$/mi)?.[1]);
    return [route, status, error];
  };
  const local = "host: localhost\r\n";
  const evil = "host: evil.example\r\n";
  const foreign = `${local}origin: https://evil.example\r\n`;
  assert.deepEqual(await ask("/v1/models", evil), ["/v1/models", 403, "host_not_allowed"]);
  assert.deepEqual(
    await ask("/v1/models/a/b", foreign),
    ["/v1/models/{name}", 403, "origin_not_allowed"],
  );
  assert.deepEqual(await ask("/props", local), ["/props", 401, "invalid_api_key"]);
  // A probe that is refused is no probe.
  assert.deepEqual(await ask("/health", evil), ["/health", 403, "host_not_allowed"]);
  assert.deepEqual(await ask("/props", evil, "DELETE"), ["/props", 403, "host_not_allowed"]);
  // Paths of a client's choice are not written down, nor become labels.
  assert.deepEqual(await ask("/nowhere", evil), ["other", 403, "host_not_allowed"]);
  assert.deepEqual(await ask("/*", evil), ["other", 403, "host_not_allowed"]);

  await using open = await openLogged();
  await (await post(open, "/v1/completions", { prompt: "x", n: 0 })).body?.cancel();
  const { status, error, route } = open.lines().at(-1);
  assert.deepEqual([route, status, error], ["/v1/completions", 400, "invalid_value"]);
});

Deno.test("a connection without a request is a line with the id that its client got", async () => {
  await using server = await openLogged();
  using client = await RawClient.connect(server);
  await client.write("rubbish\r\n\r\n");
  const { head } = parseResponse(await client.readAll());
  const { time: _, ...line } = server.lines().at(-1);
  assert.deepEqual(line, {
    level: "info",
    message: "refused connection",
    request_id: head.match(/^x-request-id: (\S+)$/mi)?.[1],
    status: 400,
    error: "invalid_http",
    peer: "127.0.0.1",
  });
});

Deno.test("a flood of refused connections is a few lines and a count", () => {
  const raw: string[] = [];
  const logger = createLogger({ format: "text", level: "info", write: (line) => raw.push(line) });
  const due: (() => void)[] = [];
  const sink = requestLog(logger, null, { later: (_, call) => void due.push(call) });
  const refuse = (code: string, count: number) => {
    for (let i = 0; i < count; i++) sink.refused!({ code, answer: null, peer: "10.0.0.1" });
  };
  refuse("too_many_connections", 500);
  refuse("invalid_http", 7);
  assert.equal(raw.length, 10);
  assert.match(
    raw[0]!,
    /info "?refused connection"? error=too_many_connections peer=10\.0\.0\.1\n$/,
  );
  // One timer for all of them.
  assert.equal(due.length, 1);
  due.pop()!();
  assert.deepEqual(raw.slice(10).map((line) => line.match(/error=.*/)?.[0]), [
    "error=too_many_connections count=490",
    "error=invalid_http count=7",
  ]);
  // Then anew, and where all have their line there is nothing to count.
  refuse("invalid_http", 2);
  due.pop()!();
  assert.equal(raw.length, 14);
  const quiet = createLogger({ format: "text", level: "warn", write: (line) => raw.push(line) });
  requestLog(quiet, null, { later: () => assert.fail("nothing to wait for") }).refused!({
    code: "invalid_http",
    answer: null,
    peer: "10.0.0.1",
  });
  assert.equal(raw.length, 14);
});

Deno.test("what is not over when the server ends has its line, with its outcome", async () => {
  await using server = await openLogged({ stepMs: 20, app: { limits: { maxQueue: 9 } } });
  const body = { prompt: "abc", max_tokens: 200, ignore_eos: true };
  const stream = await post(server, "/v1/completions", { ...body, stream: true });
  await stream.body!.getReader().read();
  const whole = post(server, "/v1/chat/completions", { messages, ...body, prompt: undefined });
  whole.catch(() => {});
  await eventually(() => server.engine.requests.length === 2, 1000);
  server.cut();
  const lines = server.lines().map(({ route, status, error, outcome, generated_tokens }) => ({
    ...{ route, status, error, outcome, isCounted: Number.isInteger(generated_tokens) },
  }));
  assert.deepEqual(lines, [
    {
      ...{ route: "/v1/completions", status: 200, error: undefined, outcome: "abort" },
      isCounted: true,
    },
    {
      ...{ route: "/v1/chat/completions", status: undefined, error: "shutting_down" },
      ...{ outcome: "abort", isCounted: true },
    },
  ]);
  assert.ok(server.lines()[0]!.generated_tokens > 0);
  // What comes of them after that is no second line.
  server.engine.requests.forEach(({ id }) => server.engine.cancel(id));
  await whole.then((response) => response.body?.cancel(), () => {});
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(server.raw.filter((line) => line.includes('"message":"request"')).length, 2);
});

Deno.test("a stream is logged when it is over, also when its client leaves", async () => {
  await using server = await openLogged({ stepMs: 5 });
  const whole = await post(server, "/v1/completions", { prompt: "a", max_tokens: 3, stream: true });
  assert.deepEqual(server.lines(), []);
  await whole.text();
  assert.equal(server.lines().length, 1);
  assert.equal(server.lines()[0].outcome, "length");

  const left = await post(server, "/v1/completions", { prompt: "a", stream: true });
  const reader = left.body!.getReader();
  await reader.read();
  await reader.cancel();
  await eventually(() => server.raw.length === 2, 1000);
  assert.equal(server.lines()[1].outcome, "abort");
});

Deno.test("a reason that the client was told is logged once", async () => {
  await using server = await openLogged({ app: { operator: { slots: true } } });
  server.engine.slotError = new SlotError("slot_file_unwritable", "it cannot be saved: no space");
  const response = await post(server, "/slots/0?action=save", { filename: "a" });
  assert.equal(response.status, 507);
  await response.body?.cancel();
  assert.equal(server.lines()[0].message, "It cannot be saved: no space.");
});

Deno.test("a failure is logged as an error with the id of its request", async () => {
  await using server = await openLogged({ failAt: () => 1 });
  for (const stream of [false, true]) {
    const response = await post(server, "/v1/completions", { prompt: "a", stream });
    await response.text();
    const id = response.headers.get("x-request-id");
    const lines = server.lines().filter((line) => line.request_id === id);
    assert.deepEqual(lines.map(({ level, message }) => [level, message]), [
      ["error", "a kernel broke"],
      ["error", "request"],
    ]);
    assert.equal(lines[1].outcome, "error");
  }
});

Deno.test("probes are logged at level debug only", async () => {
  await using server = await openLogged();
  await using talking = await openLogged({}, { level: "debug" });
  for (const { url } of [server, talking]) await (await fetch(`${url}/health`)).body?.cancel();
  assert.deepEqual(server.raw, []);
  assert.equal(talking.lines()[0].route, "/health");
  // A full queue is an answer like any other.
  const limits = { maxQueue: 1 };
  await using full = await openLogged({ maxSequences: 1, stepMs: 20, app: { limits } });
  const body = { prompt: "abc", max_tokens: 200, ignore_eos: true, stream: true };
  const streams = await Promise.all([1, 2].map(() => post(full, "/v1/completions", body)));
  const ready = await fetch(`${full.url}/ready`);
  assert.equal(ready.status, 429);
  await ready.body?.cancel();
  assert.deepEqual(full.raw, []);
  for (const stream of streams) await stream.body?.cancel();
});

Deno.test("a stream that nobody reads to its end has its line when the grace time is over", async () => {
  let lines: () => { message: string; outcome: string; status: number; request_id: string }[];
  {
    await using server = await openLogged({
      contextLength: 200_000,
      app: { pace: { slowMs: 50 } },
    });
    ({ lines } = server);
    using client = await RawClient.connect(server);
    const asked = {
      ...{ messages, max_tokens: 150_000, ignore_eos: true, stream: true },
      ...{ logprobs: true, top_logprobs: 20, n: 4 },
    };
    const body = JSON.stringify(asked);
    await client.write(
      "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: stuck\r\n" +
        `content-length: ${body.length}\r\n\r\n${body}`,
    );
    await client.read();
    // Until nothing more fits between the two.
    await eventually(() => server.engine.held.length > 0, 20_000);
    await server[Symbol.asyncDispose]();
  }
  const ended = lines().filter(({ message }) => message === "request");
  assert.deepEqual(ended.map(({ request_id: id }) => id), ["stuck"]);
  assert.equal(ended[0]!.status, 200);
  assert.match(ended[0]!.outcome, /^abort$/);
});

Deno.test("a stream that the server ends says why, one whose client leaves does not", async () => {
  await using server = await openLogged({ stepMs: 20, app: { limits: { requestTimeoutMs: 200 } } });
  const body = { prompt: "abc", max_tokens: 200, ignore_eos: true, stream: true };
  await (await post(server, "/v1/completions", body)).text();
  const leaving = new AbortController();
  const { signal } = leaving;
  const headers = { "content-type": "application/json" };
  const left = await post(server, "/v1/completions", body, { signal, headers });
  await left.body!.getReader().read();
  leaving.abort();
  await eventually(() => server.lines().length === 2, 2000);
  const told = server.lines().map(({ status, error, outcome }) => [status, error, outcome]);
  assert.deepEqual(told, [[200, "answer_timeout", "abort"], [200, undefined, "abort"]]);
});
