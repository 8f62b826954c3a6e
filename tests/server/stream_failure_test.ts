import { assert } from "std-testing";
import { merge } from "../../src/server/merge.ts";
import { openFakeServer, type TestServer } from "./_server.ts";
import { eventData, eventually, failure, post, postFailing } from "./_wire.ts";

const messages = [{ role: "user", content: "hi" }];
const LONG = { max_tokens: 200, ignore_eos: true };

async function isIdle({ model: { engine } }: TestServer): Promise<boolean> {
  const { runningSequences, waitingSequences } = await engine.stats();
  return runningSequences === 0 && waitingSequences === 0;
}

Deno.test("a stream that fails half-way ends with an error event and [DONE]", async () => {
  await using server = await openFakeServer({ failAt: () => 3 });
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
    await using server = await openFakeServer({
      failAt: () => 3,
      failure: { code, message: "no" },
    });
    const error = await postFailing(server, "/v1/completions", { prompt: "x" }, status);
    assert.equal(error.code, code);
    assert.equal(error.message, "no");
    const isGone = code === "device_lost" || code === "engine_crashed";
    const health = await fetch(`${server.url}/health`);
    assert.equal(health.status, isGone ? 503 : 200);
    assert.equal(JSON.parse(await health.text()).error?.code, isGone ? code : undefined);
  }
});

Deno.test("clients are told to try again only where that can help", async () => {
  for (const lasting of [false, true]) {
    const failing = { code: "out_of_memory", message: "no room", lasting };
    await using server = await openFakeServer({ failAt: () => 1, failure: failing });
    const body = JSON.stringify({ prompt: "x" });
    const response = await fetch(`${server.url}/v1/completions`, { method: "POST", body });
    await response.body?.cancel();
    assert.equal(response.status, 503);
    const { headers } = response;
    const told = [headers.get("retry-after"), headers.get("x-should-retry")];
    assert.deepEqual(told, lasting ? [null, "false"] : ["5", null]);
  }
});

Deno.test("an unforeseen error is a 500 that tells nothing of the machine", async () => {
  await using server = await openFakeServer();
  server.engine.generate = () => {
    throw new Error("/secret/path");
  };
  const error = await postFailing(server, "/v1/completions", { prompt: "x" }, 500);
  assert.equal(error.code, "internal");
  assert.ok(!error.message.includes("secret"));
  assert.equal(server.logged.length, 1);
});

Deno.test("an engine's error keeps its directories for the log", async () => {
  const failing = { code: "internal", message: "/opt/driver/lib.so broke" };
  await using server = await openFakeServer({ failAt: () => 1, failure: failing });
  const error = await postFailing(server, "/v1/completions", { prompt: "x" }, 500);
  assert.equal(error.message, "lib.so broke");
  assert.deepEqual(server.logged, ["lib.so broke (/opt/driver/lib.so broke)"]);
});

Deno.test("when one of several choices fails the others are cancelled", async () => {
  await using server = await openFakeServer({
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
