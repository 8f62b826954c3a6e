import { assert } from "std-testing";
import { openFakeServer } from "./_server.ts";
import { postChat, postCompletion, streamCompletion } from "./_wire.ts";

const messages = [{ role: "user", content: "x" }];

Deno.test("answers say how much of their prompt was found", async () => {
  await using server = await openFakeServer({ cached: ({ promptIds }) => promptIds.length - 2 });
  for (
    const { usage, timings } of [
      await postCompletion(server, { prompt: "abcdef" }),
      await postChat(server, { messages }),
    ]
  ) {
    const cached = usage.prompt_tokens - 2;
    assert.ok(cached > 0);
    assert.deepEqual(usage.prompt_tokens_details, { cached_tokens: cached });
    assert.equal(timings.cache_n, cached);
    assert.equal(timings.prompt_n, 2);
  }
  const chunks = await streamCompletion(server, {
    prompt: "abcdef",
    stream_options: { include_usage: true },
  });
  assert.equal(chunks.at(-1)?.usage?.prompt_tokens_details.cached_tokens, 4);
  assert.equal(chunks.at(-1)?.timings?.cache_n, 4);
});

Deno.test("of a prompt with several answers counts what none of them had to prefill", async () => {
  await using server = await openFakeServer({
    cached: ({ id, promptIds }) => id.endsWith("-0") ? 1 : promptIds.length - 2,
  });
  const { usage, timings } = await postCompletion(server, { prompt: ["abcdef", "abcdefgh"], n: 2 });
  assert.equal(usage.prompt_tokens, 14);
  assert.equal(usage.prompt_tokens_details.cached_tokens, 1 + 6);
  assert.equal(timings.cache_n, 1 + 4 + 6 + 6);
});

Deno.test("a request can keep out of the prompt cache, or apart in it", async () => {
  await using server = await openFakeServer();
  await postCompletion(server, { prompt: "a" });
  await postCompletion(server, { prompt: "a", cache_prompt: true, cache_salt: null });
  await postCompletion(server, { prompt: "a", cache_prompt: false });
  await postChat(server, { messages, cache_salt: "me" });
  assert.deepEqual(
    server.engine.requests.map(({ cachePrompt, cacheSalt }) => [cachePrompt, cacheSalt]),
    [[undefined, undefined], [undefined, undefined], [false, undefined], [undefined, "me"]],
  );
});
