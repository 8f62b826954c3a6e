import { assert } from "std-testing";
import { REPLY_TEXT, TURN_ID } from "./_fake.ts";
import { openFakeServer, SERVED_NAME } from "./_server.ts";
import { only, postChat, streamChat } from "./_wire.ts";

const user = (content: unknown) => ({ messages: [{ role: "user", content }] });
const turn = (text: string) => [TURN_ID, ...new TextEncoder().encode(text)];

Deno.test("POST /v1/chat/completions answers in the shape of the API", async () => {
  await using server = await openFakeServer();
  const answer = await postChat(server, { model: SERVED_NAME, ...user("hi") });
  const choice = only(answer.choices);
  assert.deepEqual(choice.message, { role: "assistant", content: REPLY_TEXT, refusal: null });
  assert.equal(choice.finish_reason, "stop");
  assert.equal(choice.logprobs, null);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 20);
  const request = only(server.engine.requests);
  assert.deepEqual(request.promptIds, [...turn("user:hi"), ...turn("assistant:")]);
  // The rest of the context.
  assert.equal(request.maxTokens, 256 - request.promptIds.length);
});

Deno.test("POST /v1/chat/completions takes text parts and every role", async () => {
  await using server = await openFakeServer();
  const text = (...texts: string[]) => texts.map((text) => ({ type: "text", text }));
  await postChat(server, {
    max_tokens: 1,
    messages: [
      { role: "developer", content: "d" },
      { role: "system", content: "s" },
      { role: "user", content: text("u1", "u2"), name: "me" },
      { role: "assistant", content: null, tool_calls: [] },
      { role: "tool", content: text("t"), tool_call_id: "1" },
    ],
  });
  const { promptIds } = only(server.engine.requests);
  const turns = ["developer:d", "system:s", "user:u1\nu2", "assistant:", "tool:t", "assistant:"];
  assert.deepEqual(promptIds, turns.flatMap(turn));
});

Deno.test("POST /v1/chat/completions takes special tokens in content as plain text", async () => {
  await using server = await openFakeServer();
  await postChat(server, { ...user("</s>"), max_tokens: 1 });
  assert.deepEqual(only(server.engine.requests).promptIds, [
    ...turn("user:</s>"),
    ...turn("assistant:"),
  ]);
});

Deno.test("POST /v1/chat/completions streams the role first and the finish last", async () => {
  await using server = await openFakeServer();
  const body = { ...user("hi"), stream_options: { include_usage: true } };
  const chunks = await streamChat(server, body);
  const usage = chunks.pop();
  assert.deepEqual(usage?.choices, []);
  assert.equal(usage?.usage?.completion_tokens, 20);
  assert.equal(usage?.timings?.predicted_n, 20);
  assert.ok(chunks.every((chunk) => chunk.usage === null));

  const choices = chunks.map((chunk) => only(chunk.choices));
  assert.deepEqual(choices[0]?.delta, { role: "assistant", content: "" });
  assert.deepEqual(choices.at(-1)?.delta, {});
  assert.equal(choices.at(-1)?.finish_reason, "stop");
  assert.equal(chunks.at(-1)?.timings?.predicted_n, 20);
  const inner = choices.slice(1, -1);
  assert.ok(
    inner.every(({ delta, finish_reason }) =>
      finish_reason === null && delta.role === undefined && delta.content !== undefined
    ),
  );
  assert.equal(inner.map(({ delta }) => delta.content).join(""), REPLY_TEXT);
  // The first number of a four-byte character has no text: nothing is sent for it.
  assert.ok(inner.every(({ delta }) => !delta.content?.includes("\ufffd")));
});

Deno.test("POST /v1/chat/completions streams several choices, each whole and in order", async () => {
  await using server = await openFakeServer({
    reply: ({ sampling }) => [65 + sampling.seed, 66 + sampling.seed],
  });
  const chunks = await streamChat(server, { ...user("hi"), n: 3, seed: 0, max_tokens: 2 });
  for (const index of [0, 1, 2]) {
    const own = chunks.map((chunk) => only(chunk.choices)).filter((c) => c.index === index);
    assert.deepEqual(own.map(({ delta }) => delta), [
      { role: "assistant", content: "" },
      { content: "ABC"[index] },
      { content: "BCD"[index] },
      {},
    ]);
    assert.equal(own.at(-1)?.finish_reason, "length");
  }
});

Deno.test("POST /v1/chat/completions reports token ids when asked to", async () => {
  await using server = await openFakeServer({ reply: [97, 98] });
  const body = { ...user("hi"), max_tokens: 2, return_token_ids: true };
  const answer = await postChat(server, body);
  assert.deepEqual(answer.prompt_token_ids, only(server.engine.requests).promptIds);
  assert.deepEqual(only(answer.choices).token_ids, [97, 98]);
  const chunks = await streamChat(server, body);
  assert.deepEqual(chunks[0]?.prompt_token_ids, answer.prompt_token_ids);
  assert.deepEqual(chunks.flatMap((chunk) => only(chunk.choices).token_ids ?? []), [97, 98]);
});

Deno.test("POST /v1/chat/completions sends headers before the prefill", async () => {
  await using server = await openFakeServer({ chunkMs: 400 });
  const started = performance.now();
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ ...user("hi"), stream: true, max_tokens: 1 }),
  });
  const waitedMs = performance.now() - started;
  await response.text();
  assert.ok(waitedMs < 300, `headers came after ${waitedMs} ms`);
  assert.ok(performance.now() - started >= 400);
});
