import { assert } from "std-testing";
import { END_ID, REPLY_TEXT } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import { only, postChat, postCompletion, streamChat, streamCompletion, textOf } from "./_wire.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

Deno.test("POST /v1/completions scores a prompt with echo, logprobs and max_tokens 0", async () => {
  await using server = await openFakeServer();
  const prompt = "It was a dark and stormy night."; // two pieces of the fake's prefill
  const body = { prompt, echo: true, logprobs: 2, max_tokens: 0 };
  const answer = await postCompletion(server, body);
  const { text, logprobs, finish_reason } = only(answer.choices);
  assert.equal(text, prompt);
  assert.equal(finish_reason, "length");
  assert.ok(logprobs);
  assert.deepEqual(logprobs.tokens, [...prompt]);
  assert.deepEqual(logprobs.text_offset, [...prompt].map((_, index) => index));
  assert.equal(logprobs.token_logprobs[0], null);
  assert.equal(logprobs.top_logprobs[0], null);
  for (const [index, byte] of bytes(prompt).entries()) {
    if (index === 0) continue;
    assert.equal(logprobs.token_logprobs[index], -0.5 - (byte % 8) / 8);
    assert.equal(Object.keys(logprobs.top_logprobs[index] ?? {}).length, 2);
  }
  assert.equal(answer.usage.completion_tokens, 0);

  const chunks = await streamCompletion(server, body);
  assert.equal(textOf(chunks), prompt);
  const tokens = chunks.flatMap((chunk) => only(chunk.choices).logprobs?.tokens ?? []);
  assert.deepEqual(tokens, logprobs.tokens);
});

Deno.test("POST /v1/completions scores a prompt that fills the whole context", async () => {
  await using server = await openFakeServer({ contextLength: 16 });
  const body = { prompt: "p".repeat(16), echo: true, logprobs: 0, max_tokens: 0 };
  const { logprobs } = only((await postCompletion(server, body)).choices);
  assert.equal(logprobs?.token_logprobs.length, 16);
});

Deno.test("POST /v1/completions puts the prompt before the answer with echo", async () => {
  await using server = await openFakeServer({ addsBos: true });
  for (const logprobs of [null, 1]) {
    const body = { prompt: "é ", echo: true, logprobs, max_tokens: 50 };
    const choice = only((await postCompletion(server, body)).choices);
    assert.equal(choice.text, `é ${REPLY_TEXT}`);
    assert.equal(textOf(await streamCompletion(server, body)), choice.text);
    if (logprobs === null) continue;
    // The BOS that was added stands for no text of the prompt.
    assert.deepEqual(choice.logprobs?.tokens.slice(0, 5), ["<s>", "\\xc3", "\\xa9", " ", "H"]);
    assert.deepEqual(choice.logprobs?.text_offset.slice(0, 5), [0, 0, 0, 1, 2]);
  }
});

Deno.test("POST /v1/completions completes a character that the prompt began", async () => {
  await using server = await openFakeServer({ reply: [0xa9, 33, END_ID] });
  for (const echo of [false, true]) {
    const body = { prompt: [97, 0xc3], echo };
    const { text } = only((await postCompletion(server, body)).choices);
    assert.equal(text, echo ? "aé!" : "é!");
  }
});

Deno.test("POST /v1/completions gives no logprobs for what a stop string cut off", async () => {
  await using server = await openFakeServer({ reply: bytes("ab\n\ncd") });
  const body = { prompt: "x", logprobs: 1, stop: ["\n\n"] };
  const { text, logprobs } = only((await postCompletion(server, body)).choices);
  assert.equal(text, "ab");
  assert.deepEqual(logprobs?.tokens, ["a", "b"]);
  const chunks = await streamCompletion(server, body);
  assert.deepEqual(chunks.flatMap((chunk) => only(chunk.choices).logprobs?.tokens ?? []), [
    "a",
    "b",
  ]);
});

Deno.test("POST /v1/completions keeps the chosen token among the top ones", async () => {
  await using server = await openFakeServer({ reply: [97] });
  const body = { prompt: "x", logprobs: 0, max_tokens: 1 };
  const { logprobs } = only((await postCompletion(server, body)).choices);
  assert.deepEqual(logprobs, {
    tokens: ["a"],
    token_logprobs: [-0.625],
    top_logprobs: [{ a: -0.625 }],
    text_offset: [0],
  });
});

Deno.test("POST /v1/chat/completions gives each token's bytes, also of parts of characters", async () => {
  await using server = await openFakeServer();
  const messages = [{ role: "user", content: "hi" }];
  const body = { messages, logprobs: true, top_logprobs: 2 };
  const { message, logprobs } = only((await postChat(server, body)).choices);
  assert.equal(message.content, REPLY_TEXT);
  const content = logprobs?.content ?? [];
  // The end token is not part of the text.
  assert.deepEqual(content.flatMap((token) => token.bytes), bytes(REPLY_TEXT));
  assert.deepEqual(content.map((token) => token.top_logprobs.length), content.map(() => 2));
  assert.ok(content.some((token) => token.token === "\\xf0"));

  const chunks = await streamChat(server, body);
  const streamed = chunks.flatMap((chunk) => only(chunk.choices).logprobs?.content ?? []);
  assert.deepEqual(streamed, content);
});

Deno.test("POST /v1/chat/completions gives log-probabilities without alternatives by default", async () => {
  await using server = await openFakeServer();
  const body = { messages: [{ role: "user", content: "hi" }], logprobs: true, max_tokens: 1 };
  const { logprobs } = only((await postChat(server, body)).choices);
  assert.deepEqual(only(logprobs?.content ?? []).top_logprobs, []);
});
