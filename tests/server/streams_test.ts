/** Streams over real sockets and a real engine: comments, progress, text that arrives whole. */
import { assert } from "std-testing";
import { llmperfText, vllmBenchText } from "./_bench_clients.ts";
import { CONTEXT_LENGTH, MAX_SEQUENCES, withTestEngine } from "./_engine.ts";
import { openFakeServer, type TestServer } from "./_server.ts";
import {
  only,
  post,
  postChat,
  postCompletion,
  postFailing,
  streamChat,
  streamCompletion,
  textOf,
} from "./_wire.ts";

const openTestServer = withTestEngine();
const messages = [{ role: "user", content: "Say something." }];
const CHAT = { messages, temperature: 0, max_tokens: 12 };

/** Takes every slot, so that whoever comes next hears nothing for a while. */
async function fillSlots(server: TestServer): Promise<Promise<unknown>[]> {
  const body = { prompt: "busy", ignore_eos: true, max_tokens: 300, sse_ping_interval: -1 };
  const busy = Array.from({ length: MAX_SEQUENCES }, () => streamCompletion(server, body));
  while ((await server.model.engine.stats()).runningSequences < MAX_SEQUENCES);
  return busy;
}

async function queuedChat(server: TestServer, more: object): Promise<string> {
  const busy = await fillSlots(server);
  const response = await post(server, "/v1/chat/completions", { ...CHAT, stream: true, ...more });
  const body = await response.text();
  await Promise.all(busy);
  return body;
}

Deno.test("check 4: a stream that waits gets comments; vllm bench's reader loses what follows one alone", async () => {
  await using server = await openTestServer({ pace: { pingMs: 50 } });
  const whole = only((await postChat(server, CHAT)).choices).message.content;
  const body = await queuedChat(server, {});
  assert.match(body, /^(:\n\n)+data: \{/);
  // It skips comments that come together with what follows.
  assert.equal(vllmBenchText([body]).text, whole);
  // Of pieces it takes the ends off first, so a comment by itself is never over. This is a fault of
  // that reader, and why the README has it ask for none.
  assert.equal(vllmBenchText(body.split(/(?<=\n\n)/)).text, "");
});

Deno.test("check 4: a request can do without comments, which both benchmark clients' readers need", async () => {
  await using server = await openTestServer({ pace: { pingMs: 50 } });
  const whole = only((await postChat(server, CHAT)).choices).message.content;
  const body = await queuedChat(server, { sse_ping_interval: -1 });
  assert.ok(!body.includes("\n:") && !body.startsWith(":"));
  assert.equal(llmperfText(body), whole);
  assert.equal(vllmBenchText(body.split(/(?<=\n\n)/)).text, whole);
});

Deno.test("a request can ask for comments that the server does not send by itself", async () => {
  await using server = await openTestServer({ pace: { pingMs: null } });
  assert.ok(!(await queuedChat(server, {})).startsWith(":"));
  assert.ok((await queuedChat(server, { sse_ping_interval: 0.05 })).startsWith(":\n\n"));
  for (const wrong of [-2, "1", 1e9]) {
    const body = { prompt: "x", sse_ping_interval: wrong };
    const error = await postFailing(server, "/v1/completions", body, 400);
    assert.equal(error.param, "sse_ping_interval");
  }
});

Deno.test("return_progress tells how far the prompt is, and nothing else changes", async () => {
  await using server = await openTestServer();
  const prompt = Array.from({ length: 150 }, (_, index) => 3 + (index * 7) % 300);
  const body = { prompt, temperature: 0, max_tokens: 4, cache_salt: crypto.randomUUID() };
  for (const cached of [0, 128]) {
    const chunks = await streamCompletion(server, { ...body, return_progress: true });
    const told = chunks.flatMap(({ prompt_progress }) => prompt_progress ?? []);
    assert.ok(told.every(({ total, cache }) => total === prompt.length && cache === cached));
    const processed = told.map((progress) => progress.processed);
    assert.deepEqual(processed, processed.toSorted((one, other) => one - other));
    assert.equal(processed.at(-1), prompt.length);
    assert.ok(cached === 0 ? processed.length >= 5 : processed[0] === cached);
    assert.ok(told.every(({ time_ms }, index) => time_ms >= (told[index - 1]?.time_ms ?? 0)));
    // Progress comes before the answer.
    const first = chunks.findIndex((chunk) => only(chunk.choices).text !== "");
    assert.ok(chunks.slice(first).every((chunk) => chunk.prompt_progress === undefined));
    assert.equal(textOf(chunks), only((await postCompletion(server, body)).choices).text);
  }
  assert.ok((await streamCompletion(server, body)).every((chunk) => !chunk.prompt_progress));
});

Deno.test("return_progress in a chat: the role comes with the first chunk, once", async () => {
  await using server = await openFakeServer({ cached: () => 4 });
  const asked = { messages, return_progress: true, n: 2 };
  const chunks = await streamChat(server, asked);
  for (const index of [0, 1]) {
    const own = chunks.filter((chunk) => only(chunk.choices).index === index);
    const roles = own.map((chunk) => only(chunk.choices).delta.role);
    assert.deepEqual(roles.map((role) => role !== undefined), own.map((_, nth) => nth === 0));
    assert.deepEqual(own[0]?.prompt_progress?.processed, 4);
  }
  // There is nowhere to tell it in a whole answer.
  await postChat(server, asked);
});

Deno.test("check 15: streamed text is that of the whole answer and has no half characters", async () => {
  await using server = await openTestServer();
  // The model's tokens are mostly bytes: at a high temperature it writes all sorts of characters.
  for (let seed = 0; seed < 4; seed++) {
    const body = { prompt: "😀 Grüße, 世界", seed, temperature: 1.5, max_tokens: 100 };
    const whole = only((await postCompletion(server, body)).choices).text;
    const chunks = await streamCompletion(server, body);
    assert.equal(textOf(chunks), whole);
  }
  const emoji = { prompt: "😀".repeat(20), echo: true, temperature: 0, max_tokens: 0, logprobs: 0 };
  const pieces = (await streamCompletion(server, emoji)).map((chunk) => only(chunk.choices).text);
  assert.equal(pieces.join(""), emoji.prompt);
  assert.ok(pieces.every((piece) => piece.isWellFormed() && !piece.includes("\ufffd")));
});

Deno.test("check 15: a stop string split over tokens leaks nothing into a stream", async () => {
  await using server = await openTestServer();
  const body = { prompt: "Once upon a time", temperature: 0, max_tokens: 40 };
  const { text } = only((await postCompletion(server, { ...body })).choices);
  const characters = [...text];
  assert.ok(characters.length >= 12, text);
  for (const at of [3, 6, 8]) {
    const stop = characters.slice(at, at + 4).join("");
    const chunks = await streamCompletion(server, { ...body, stop });
    assert.equal(textOf(chunks), text.slice(0, text.indexOf(stop)));
    assert.equal(only(chunks.at(-1)?.choices ?? []).finish_reason, "stop");
  }
});

Deno.test("headers of a stream come before its prompt is prefilled", async () => {
  await using server = await openFakeServer({ chunkMs: 400, contextLength: CONTEXT_LENGTH });
  const began = performance.now();
  const response = await post(server, "/v1/completions", { prompt: "x".repeat(64), stream: true });
  assert.ok(performance.now() - began < 400);
  await response.body?.cancel();
});
