import { assert } from "std-testing";
import { createApp } from "../../src/server/app.ts";
import { serve } from "../../src/server/serve.ts";
import { FakeEngine, FakeTokenizer } from "./_fake.ts";
import { eventData, failure, post, postFailing } from "./_wire.ts";

function open(graceMs?: number, signal?: AbortSignal) {
  const engine = new FakeEngine({ stepMs: 20, contextLength: 4096 });
  const model = { engine, tokenizer: new FakeTokenizer() };
  const app = createApp({ model, servedName: "tiny", version: "0" });
  return serve(app, {
    host: "127.0.0.1",
    port: 0,
    ...(graceMs === undefined ? {} : { graceMs }),
    ...(signal === undefined ? {} : { signal }),
  });
}
const LONG = { prompt: "x", max_tokens: 2000, ignore_eos: true };

Deno.test("serve() ends running answers with an error when it is shut down", async () => {
  const server = await open();
  const stream = await post(server, "/v1/completions", { ...LONG, stream: true });
  const whole = postFailing(server, "/v1/completions", LONG, 503);
  const text = stream.text();
  await new Promise((resolve) => setTimeout(resolve, 100));
  const started = performance.now();
  await server.shutdown();
  assert.ok(performance.now() - started < 1000);
  const data = eventData(await text);
  assert.equal(data.pop(), "[DONE]");
  assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, "shutting_down");
  assert.equal((await whole).code, "shutting_down");
  await assert.rejects(fetch(`${server.url}/health`));
  await server.finished;
});

Deno.test("serve() cuts connections that do not end within the grace time", async () => {
  const server = await open(300);
  // Half a request keeps its connection open for ever.
  const socket = await Deno.connect({ hostname: server.host, port: server.port });
  const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
  await socket.write(new TextEncoder().encode(head));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const started = performance.now();
  await server.shutdown();
  assert.ok(performance.now() - started < 2000, `${performance.now() - started} ms`);
  socket.close();
});

Deno.test("serve() shuts down with its signal, once", async () => {
  const controller = new AbortController();
  const server = await open(300, controller.signal);
  const response = await fetch(`${server.url}/health`);
  assert.equal(response.status, 200);
  await response.body?.cancel();
  controller.abort();
  await server.finished;
  await server.shutdown();
});

Deno.test("serve() says which port it took, and refuses one that is taken", async () => {
  const server = await open();
  assert.ok(server.port > 0);
  assert.equal(server.url, `http://127.0.0.1:${server.port}`);
  const model = { engine: new FakeEngine() };
  const app = createApp({ model, servedName: "x", version: "0" });
  await assert.rejects(
    serve(app, { host: "127.0.0.1", port: server.port }),
    Deno.errors.AddrInUse,
  );
  await server.shutdown();
});
