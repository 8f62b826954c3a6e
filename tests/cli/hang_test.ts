/** A device that hangs without an error: somebody notices, and nobody waits for ever. */
import { assert } from "std-testing";
import {
  completionChunk,
  eventData,
  eventually,
  failure,
  only,
  post,
  postCompletion,
} from "../server/_wire.ts";
import { startHurtServer } from "./_hurt_server.ts";

const ARGS = ["--context", "512", "--request-timeout", "2", "--drain-timeout", "1"];

Deno.test("a device that hangs: comments, then the error of --request-timeout; a signal still ends it", async () => {
  using server = startHurtServer([...ARGS, "--sse-ping-interval", "0.2"]);
  const url = await server.url;
  const body = { prompt: [1, 2, 3], ignore_eos: true, max_tokens: 500, stream: true };
  const stream = await post({ url }, "/v1/completions", body);
  const [head, rest] = stream.body!.tee();
  await head.getReader().read();
  server.hurt("hang");
  const text = await new Response(rest).text();
  assert.match(text, /\n\n:\n\n/);
  const data = eventData(text.replace(/(?<=^|\n\n):\n\n/g, ""));
  assert.equal(data.pop(), "[DONE]");
  assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, "answer_timeout");
  for (const chunk of data) completionChunk.parse(JSON.parse(chunk));
  // The rest of the server does not wait with it.
  const health = await fetch(`${url}/health`);
  await health.body?.cancel();
  assert.equal(health.status, 200);
  const late = await post({ url }, "/v1/completions", { prompt: [1], max_tokens: 1 });
  assert.equal(late.status, 504);
  await late.body?.cancel();
  const began = performance.now();
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
  // What an engine that answers may take to settle, and no more.
  assert.ok(performance.now() - began < 10_000, `${performance.now() - began} ms`);
});

Deno.test("--hang-timeout: a device that hangs is a lost engine: error events, 503, one new start", async () => {
  using server = startHurtServer(["--context", "512", "--hang-timeout", "1.5"]);
  const url = await server.url;
  const asked = { prompt: [1, 2, 3], temperature: 0, max_tokens: 8 };
  const before = await postCompletion({ url }, asked);
  const body = { prompt: [1, 2, 3], ignore_eos: true, max_tokens: 500, stream: true };
  const stream = await post({ url }, "/v1/completions", body);
  const [head, rest] = stream.body!.tee();
  await head.getReader().read();
  server.hurt("hang");
  const data = eventData(await new Response(rest).text());
  assert.equal(data.pop(), "[DONE]");
  const { error } = failure.parse(JSON.parse(data.pop() ?? ""));
  assert.equal(error.code, "engine_crashed");
  assert.match(error.message, /seems to hang: nothing was completed for 1\.5 s/);
  const status = async (path: string) => {
    const response = await fetch(`${url}${path}`);
    await response.body?.cancel();
    return response.status;
  };
  assert.equal(await status("/health"), 503);
  await eventually(async () => await status("/ready") === 200, 60_000);
  const after = await postCompletion({ url }, asked);
  assert.equal(only(after.choices).text, only(before.choices).text);
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
});
