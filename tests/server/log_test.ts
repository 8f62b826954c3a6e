import { assert } from "std-testing";
import { SlotError } from "../../src/kv/store/errors.ts";
import { createLogger } from "../../src/observe/logger.ts";
import { Observer } from "../../src/observe/observer.ts";
import { requestLog } from "../../src/observe/request_log.ts";
import { FakeTokenizer, REPLY_TEXT } from "./_fake.ts";
import { RawClient } from "./_raw.ts";
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
  return Object.assign(server, { raw, lines: () => raw.map((line) => JSON.parse(line)) });
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

Deno.test("a request that is refused says why, a connection without one only where all is logged", async () => {
  await using server = await openLogged({}, { level: "debug" });
  await (await post(server, "/v1/completions", { prompt: "x", n: 0 })).body?.cancel();
  assert.equal(server.lines().at(-1).status, 400);
  assert.equal(server.lines().at(-1).error, "invalid_value");
  using client = await RawClient.connect(server);
  await client.write("rubbish\r\n\r\n");
  await client.readAll();
  const { level, error } = server.lines().at(-1);
  assert.deepEqual([level, error], ["debug", "invalid_http"]);
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
});
