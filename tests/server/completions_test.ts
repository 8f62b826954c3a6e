import { assert } from "std-testing";
import { BOS_ID, END_ID, REPLY_TEXT, TURN_ID } from "./_fake.ts";
import { openFakeServer, SERVED_NAME } from "./_server.ts";
import { only, postCompletion, streamCompletion, textOf } from "./_wire.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

Deno.test("POST /v1/completions answers in the shape of the API, with usage and timings", async () => {
  await using server = await openFakeServer();
  const answer = await postCompletion(server, { prompt: "Say it", max_tokens: 50 });
  const choice = only(answer.choices);
  assert.equal(choice.text, REPLY_TEXT);
  assert.equal(choice.finish_reason, "stop");
  assert.equal(choice.logprobs, null);
  assert.equal(answer.model, SERVED_NAME);
  const numReply = bytes(REPLY_TEXT).length + 1; // and the end token
  assert.deepEqual(answer.usage, {
    prompt_tokens: 6,
    completion_tokens: numReply,
    total_tokens: 6 + numReply,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.equal(answer.timings.prompt_n, 6);
  assert.equal(answer.timings.predicted_n, numReply);
  assert.equal(answer.timings.predicted_per_token_ms, 2);
  assert.equal(answer.timings.predicted_per_second, 500);
});

Deno.test("POST /v1/completions uses OpenAI's defaults", async () => {
  await using server = await openFakeServer();
  await postCompletion(server, { prompt: "x" });
  const request = only(server.engine.requests);
  assert.equal(request.maxTokens, 16);
  const { seed, ...sampling } = request.sampling;
  assert.ok(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32);
  assert.deepEqual(sampling, {
    temperature: 1,
    topK: 0,
    typicalP: 1,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    repeatLastN: 64,
    frequencyPenalty: 0,
    presencePenalty: 0,
    logitBias: [],
  });
  assert.deepEqual(request.stopTokenIds, [END_ID]);
  assert.deepEqual(request.bannedTokenIds, []);
  assert.equal(request.logprobs, null);
});

Deno.test("POST /v1/completions passes every sampling parameter on", async () => {
  await using server = await openFakeServer();
  await postCompletion(server, {
    prompt: "x",
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.1,
    typical_p: 0.8,
    repeat_penalty: 1.1,
    repeat_last_n: -1,
    frequency_penalty: -2,
    presence_penalty: 2,
    logit_bias: { "5": -100, "6": 3.5 },
    seed: 7,
    stop_token_ids: [65],
    min_tokens: 2,
    ignore_eos: true,
    max_completion_tokens: 3,
    max_tokens: 9,
  });
  const request = only(server.engine.requests);
  assert.deepEqual(request.sampling, {
    temperature: 0.5,
    topK: 40,
    typicalP: 0.8,
    topP: 0.9,
    minP: 0.1,
    repetitionPenalty: 1.1,
    repeatLastN: -1,
    frequencyPenalty: -2,
    presencePenalty: 2,
    logitBias: [[5, -100], [6, 3.5]],
    seed: 7,
  });
  assert.equal(request.maxTokens, 3);
  assert.equal(request.minTokens, 2);
  assert.deepEqual(request.stopTokenIds, [65]);
  assert.deepEqual(request.bannedTokenIds, [END_ID]);
});

Deno.test("POST /v1/completions takes null for absent and ignores unknown fields", async () => {
  await using server = await openFakeServer();
  await postCompletion(server, {
    prompt: "x",
    model: null,
    stop: null,
    seed: null,
    logprobs: null,
    max_tokens: null,
    temperature: null,
    stream_options: null,
    suffix: null,
    user: "u",
    frobnicate: [1, { a: 2 }],
  });
  assert.equal(only(server.engine.requests).maxTokens, 16);
});

Deno.test("POST /v1/completions takes llama.cpp's pairs in logit_bias; false bans a token", async () => {
  await using server = await openFakeServer();
  await postCompletion(server, { prompt: "x", logit_bias: [[5, -1], [6, false]] });
  const request = only(server.engine.requests);
  assert.deepEqual(request.sampling.logitBias, [[5, -1]]);
  assert.deepEqual(request.bannedTokenIds, [6]);
});

Deno.test("POST /v1/completions takes a prompt as text, ids, texts and lists of ids", async () => {
  await using server = await openFakeServer({ addsBos: true });
  const promptsOf = async (body: object) => {
    server.engine.requests.length = 0;
    await postCompletion(server, { ...body, max_tokens: 1 });
    return server.engine.requests.map((request) => request.promptIds);
  };
  assert.deepEqual(await promptsOf({ prompt: "ab" }), [[BOS_ID, 97, 98]]);
  assert.deepEqual(await promptsOf({ prompt: "a", add_special_tokens: false }), [[97]]);
  assert.deepEqual(await promptsOf({ prompt: [97, 0, 260] }), [[97, 0, 260]]);
  assert.deepEqual(await promptsOf({ prompt: ["a", "b"] }), [[BOS_ID, 97], [BOS_ID, 98]]);
  assert.deepEqual(await promptsOf({ prompt: [[1, 2], [3]] }), [[1, 2], [3]]);
  const special = "<|turn|>";
  assert.deepEqual(await promptsOf({ prompt: special }), [[BOS_ID, TURN_ID]]);
  assert.deepEqual(await promptsOf({ prompt: special, parse_special: false }), [
    [BOS_ID, ...bytes(special)],
  ]);
});

Deno.test("POST /v1/completions numbers choices prompt by prompt, seeds counting up", async () => {
  await using server = await openFakeServer({
    reply: ({ promptIds, sampling }) => [...promptIds, 48 + sampling.seed % 10],
  });
  const body = { prompt: ["a", "b"], n: 3, seed: 4, max_tokens: 2 };
  const answer = await postCompletion(server, body);
  assert.deepEqual(answer.choices.map(({ index, text }) => [index, text]), [
    [0, "a4"],
    [1, "a5"],
    [2, "a6"],
    [3, "b4"],
    [4, "b5"],
    [5, "b6"],
  ]);
  assert.equal(answer.usage.prompt_tokens, 2);
  assert.equal(answer.usage.completion_tokens, 12);
  const chunks = await streamCompletion(server, body);
  for (const { index, text } of answer.choices) assert.equal(textOf(chunks, index), text);
});

Deno.test("POST /v1/completions wraps seeds to 32 bits; -1 and absence are random", async () => {
  await using server = await openFakeServer();
  const seedsOf = async (seed: number | undefined) => {
    server.engine.requests.length = 0;
    await postCompletion(server, { prompt: "x", max_tokens: 1, n: 2, seed });
    return server.engine.requests.map((request) => request.sampling.seed);
  };
  assert.deepEqual(await seedsOf(2 ** 32 - 1), [2 ** 32 - 1, 0]);
  assert.deepEqual(await seedsOf(-2), [2 ** 32 - 2, 2 ** 32 - 1]);
  assert.notDeepEqual(await seedsOf(-1), await seedsOf(-1));
  assert.notDeepEqual(await seedsOf(undefined), await seedsOf(undefined));
});

Deno.test("POST /v1/completions streams chunks whose text is that of the whole answer", async () => {
  await using server = await openFakeServer();
  const chunks = await streamCompletion(server, { prompt: "x", max_tokens: 50 });
  assert.equal(textOf(chunks), REPLY_TEXT);
  assert.equal(new Set(chunks.map(({ id, created }) => `${id} ${created}`)).size, 1);
  const finishes = chunks.map((chunk) => only(chunk.choices).finish_reason);
  assert.equal(finishes.pop(), "stop");
  assert.ok(finishes.every((reason) => reason === null));
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.timings === undefined));
  assert.equal(chunks.at(-1)?.timings?.prompt_n, 1);
  assert.ok(chunks.every((chunk) => !("usage" in chunk)));
});

Deno.test("POST /v1/completions streams usage as stream_options asks for it", async () => {
  await using server = await openFakeServer();
  const body = { prompt: "xyz", max_tokens: 4 };
  const asked = { ...body, stream_options: { include_usage: true } };
  const chunks = await streamCompletion(server, asked);
  const last = chunks.pop();
  assert.deepEqual(last?.choices, []);
  assert.equal(last?.usage?.total_tokens, 7);
  assert.equal(last?.timings?.predicted_n, 4);
  assert.ok(chunks.every((chunk) => chunk.usage === null));

  const all = { include_usage: true, continuous_usage_stats: true };
  const counted = await streamCompletion(server, { ...body, stream_options: all });
  const counts = counted.map((chunk) => chunk.usage?.completion_tokens);
  assert.deepEqual(counts, [1, 2, 3, 4, 4, 4]);
});

Deno.test("POST /v1/completions stops at the context and says so", async () => {
  await using server = await openFakeServer({ contextLength: 32, reply: [120] });
  const prompt = "p".repeat(30);
  const answer = await postCompletion(server, { prompt, max_tokens: 10 });
  assert.deepEqual(only(answer.choices).text, "xx");
  assert.equal(only(answer.choices).finish_reason, "length");
});

Deno.test("POST /v1/completions with max_tokens 0 gives no text", async () => {
  await using server = await openFakeServer();
  const answer = await postCompletion(server, { prompt: "x", max_tokens: 0 });
  assert.equal(only(answer.choices).text, "");
  assert.equal(only(answer.choices).finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 0);
});

Deno.test("POST /v1/completions shows special tokens only when asked to, the end never", async () => {
  await using server = await openFakeServer({ reply: [97, TURN_ID, 98, END_ID] });
  const hidden = await postCompletion(server, { prompt: "x" });
  assert.equal(only(hidden.choices).text, "ab");
  const shown = await postCompletion(server, { prompt: "x", skip_special_tokens: false });
  assert.equal(only(shown.choices).text, "a<|turn|>b");
});

Deno.test("POST /v1/completions reports token ids when asked to", async () => {
  await using server = await openFakeServer({ reply: [97, 98, END_ID] });
  const body = { prompt: "xy", return_token_ids: true };
  const choice = only((await postCompletion(server, body)).choices);
  assert.deepEqual(choice.token_ids, [97, 98, END_ID]);
  assert.deepEqual(choice.prompt_token_ids, [120, 121]);
  const chunks = (await streamCompletion(server, body)).map((chunk) => only(chunk.choices));
  assert.deepEqual(chunks.flatMap((chunk) => chunk.token_ids), [97, 98, END_ID]);
  assert.deepEqual(chunks.map((chunk) => chunk.prompt_token_ids !== undefined), [
    true,
    false,
    false,
    false,
  ]);
});

Deno.test("POST /v1/completions serves ids when the model has no tokenizer", async () => {
  await using server = await openFakeServer({ idsOnly: true, reply: [97, 98] });
  const body = { prompt: [1, 2], max_tokens: 3, logprobs: 1 };
  const choice = only((await postCompletion(server, body)).choices);
  assert.equal(choice.text, "");
  assert.deepEqual(choice.token_ids, [97, 98, 97]);
  assert.deepEqual(choice.logprobs?.tokens, ["token_id:97", "token_id:98", "token_id:97"]);
  const chunks = (await streamCompletion(server, body)).map((chunk) => only(chunk.choices));
  assert.deepEqual(chunks.flatMap((chunk) => chunk.token_ids), [97, 98, 97]);
});

Deno.test("POST /v1/completions without a tokenizer ends at the model's end token", async () => {
  await using server = await openFakeServer({ idsOnly: true, reply: [97, END_ID, 98] });
  const body = { prompt: [1], max_tokens: 9 };
  const choice = only((await postCompletion(server, body)).choices);
  assert.deepEqual(choice.token_ids, [97, END_ID]);
  assert.equal(choice.finish_reason, "stop");
  const on = only((await postCompletion(server, { ...body, ignore_eos: true })).choices);
  assert.equal(on.finish_reason, "length");
  assert.deepEqual(server.engine.requests[1]?.bannedTokenIds, [END_ID]);
});
