/** What ends with its time: answers, wherever they wait. */
import { assert } from "std-testing";
import { MAX_SEQUENCES, withTestEngine } from "./_engine.ts";
import { openFakeServer, type TestServer } from "./_server.ts";
import { eventData, eventually, failure, post, postFailing, readAs } from "./_wire.ts";

const openTestServer = withTestEngine();
const LONG = { prompt: "goes on", max_tokens: 450, ignore_eos: true };

async function isIdle(server: TestServer) {
  const { runningSequences, waitingSequences, pagesInUse } = await server.model.engine.stats();
  return runningSequences + waitingSequences + pagesInUse === 0;
}

Deno.test("an answer that takes longer than it may ends: whole with 504, a stream with its error", async () => {
  await using server = await openTestServer({ limits: { requestTimeoutMs: 150 } });
  const response = await post(server, "/v1/completions", LONG);
  assert.equal(response.headers.get("x-should-retry"), "false");
  const { error } = await readAs(failure, response, 504);
  assert.equal(error.code, "answer_timeout");
  const data = eventData(
    await (await post(server, "/v1/completions", { ...LONG, stream: true })).text(),
  );
  assert.equal(data.pop(), "[DONE]");
  assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, "answer_timeout");
  await eventually(() => isIdle(server), 2000);
  assert.deepEqual(server.logged, []);
});

Deno.test("a request deadline counts the time in the queue", async () => {
  await using other = await openTestServer();
  const hogs = new AbortController();
  const streams = await Promise.all(
    Array.from(
      { length: MAX_SEQUENCES },
      () => post(other, "/v1/completions", { ...LONG, stream: true }, { signal: hogs.signal }),
    ),
  );
  await using server = await openTestServer({ limits: { requestTimeoutMs: 100 } });
  await postFailing(server, "/v1/completions", { prompt: "x", max_tokens: 1 }, 504);
  hogs.abort();
  await Promise.allSettled(streams.map((stream) => stream.text()));
  await eventually(() => isIdle(server), 2000);
});

Deno.test("the time of an answer begins with its request, whatever it waits for", async () => {
  await using server = await openFakeServer({
    stepMs: 20,
    app: { limits: { requestTimeoutMs: 1000 } },
  });
  const { template } = server.model;
  const render = template!.render.bind(template);
  template!.render = async (...args) => {
    await new Promise((resolve) => setTimeout(resolve, 900));
    return await render(...args);
  };
  const began = performance.now();
  const body = { messages: [{ role: "user", content: "x" }], max_tokens: 400, ignore_eos: true };
  await postFailing(server, "/v1/chat/completions", body, 504);
  const tookMs = performance.now() - began;
  assert.ok(tookMs >= 950 && tookMs < 1800, `${tookMs} ms`);
});
