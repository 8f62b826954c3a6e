/**
 * Clients that people really use, against a server with a real engine. The texts of a model that
 * small mean nothing: what is compared is one way to ask with another, at temperature 0.
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI as LangChainCompletion } from "@langchain/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { assert } from "std-testing";
import { z } from "zod";
import { CONTEXT_LENGTH, withTestEngine } from "./_engine.ts";
import { llmperfText, piecesOf, vllmBenchText } from "./_bench_clients.ts";
import { openFakeServer, SERVED_NAME, type TestServer } from "./_server.ts";
import { eventData, eventually, only, post, postCompletion, postFailing } from "./_wire.ts";

const openTestServer = withTestEngine();
const messages = [{ role: "user" as const, content: "Say something." }];
const PLAIN = { model: SERVED_NAME, temperature: 0, max_tokens: 24 };
const KEY = "any";

const openai = (server: TestServer, options = {}) =>
  new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY, ...options });

Deno.test("check 1: npm openai: chat, whole and streamed, with usage", async () => {
  await using server = await openTestServer();
  const client = openai(server);
  const whole = await client.chat.completions.create({ ...PLAIN, messages });
  const text = whole.choices[0]?.message.content;
  assert.ok(whole._request_id);
  assert.ok(whole.usage && whole.usage.completion_tokens > 0);

  const stream = await client.chat.completions.create({
    ...PLAIN,
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let streamed = "";
  let usage: OpenAI.CompletionUsage | null | undefined;
  const reasons: string[] = [];
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta.content ?? "";
    const reason = chunk.choices[0]?.finish_reason;
    if (reason) reasons.push(reason);
    if (chunk.choices.length === 0) usage = chunk.usage;
  }
  assert.equal(streamed, text);
  assert.deepEqual(reasons, [whole.choices[0]?.finish_reason]);
  assert.deepEqual(usage, whole.usage);
});

Deno.test("npm openai: the stream helper puts the whole answer together", async () => {
  await using server = await openTestServer();
  const client = openai(server);
  const asked = { ...PLAIN, messages, logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create(asked);
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(final.choices[0]?.message.content, whole.choices[0]?.message.content);
  assert.deepEqual(final.choices[0]?.logprobs?.content, whole.choices[0]?.logprobs?.content);
});

Deno.test("check 1: npm openai: completions, whole and streamed, several prompts", async () => {
  await using server = await openTestServer();
  const client = openai(server);
  const asked = { ...PLAIN, prompt: ["Once upon", "A number:"], n: 2, seed: 1 };
  const whole = await client.completions.create(asked);
  assert.equal(whole.choices.length, 4);
  assert.equal(whole.choices[0]?.text, whole.choices[1]?.text);
  const texts = whole.choices.map(() => "");
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
    for (const { index, text } of chunk.choices) texts[index] += text;
  }
  assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
});

Deno.test("check 1: npm openai: cached_tokens rises where a prompt comes again, and usage ends a stream", async () => {
  await using server = await openTestServer();
  const client = openai(server);
  const cachedIn = (usage: OpenAI.CompletionUsage | null | undefined) =>
    usage?.prompt_tokens_details?.cached_tokens ?? NaN;
  const content = `Nobody asked this before: ${crypto.randomUUID()}.`;
  const prompt = `Nor this: ${crypto.randomUUID()}.`;
  const streaming = { stream: true, stream_options: { include_usage: true } } as const;
  for (const isFirst of [true, false]) {
    const chat = { ...PLAIN, messages: [{ role: "user" as const, content }] };
    const whole = isFirst
      ? cachedIn((await client.chat.completions.create(chat)).usage)
      : undefined;
    const chunks = await Array.fromAsync(
      await client.chat.completions.create({ ...chat, ...streaming }),
    );
    assert.deepEqual(chunks.at(-1)?.choices, []);
    assert.ok(chunks.slice(0, -1).every(({ choices, usage }) => choices.length > 0 && !usage));
    if (whole !== undefined) assert.equal(whole % 32, 0);
    assert.ok(cachedIn(chunks.at(-1)?.usage) > (whole ?? 0));

    const pieces = await Array.fromAsync(
      await client.completions.create({ ...PLAIN, prompt, ...streaming }),
    );
    assert.deepEqual(pieces.at(-1)?.choices, []);
    const cached = cachedIn(pieces.at(-1)?.usage);
    assert.ok(isFirst ? cached === 0 : cached > 0, `${cached}`);
  }
});

Deno.test("npm openai: models and errors of the right class", async () => {
  await using server = await openTestServer();
  const client = openai(server);
  const names = (await client.models.list()).data.map((model) => model.id);
  assert.deepEqual(names, [SERVED_NAME]);
  assert.equal((await client.models.retrieve(SERVED_NAME)).id, SERVED_NAME);
  await assert.rejects(
    client.chat.completions.create({ ...PLAIN, messages, temperature: 3 }),
    (error) =>
      error instanceof OpenAI.BadRequestError && error.param === "temperature" &&
      error.code === "invalid_value",
  );
  await assert.rejects(
    client.chat.completions.create({ ...PLAIN, messages, model: "gpt-9" }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
  );
});

Deno.test("check 5: npm openai: leaving a stream frees its sequence within 1 s", async () => {
  await using server = await openTestServer();
  const stream = await openai(server).completions.create({
    ...PLAIN,
    prompt: "x",
    max_tokens: 400,
    stream: true,
    ...{ ignore_eos: true },
  });
  let seen = 0;
  for await (const _ of stream) if (++seen === 3) break;
  await eventually(async () => {
    const { runningSequences, pagesInUse } = await server.model.engine.stats();
    return runningSequences === 0 && pagesInUse === 0;
  }, 1000);
});

Deno.test("npm openai: an error half-way is thrown with its message", async () => {
  await using server = await openFakeServer({ failAt: () => 4 });
  const stream = await openai(server).chat.completions.create({ ...PLAIN, messages, stream: true });
  await assert.rejects(async () => {
    for await (const _ of stream);
  }, (error) => error instanceof OpenAI.APIError && /a kernel broke/.test(error.message));
});

const aiModel = (server: TestServer) =>
  createOpenAICompatible({
    name: "tokenbutler",
    baseURL: `${server.url}/v1`,
    apiKey: KEY,
    includeUsage: true,
  });

Deno.test("check 2: npm ai: generateText and streamText give the same text and usage", async () => {
  await using server = await openTestServer();
  const asked = {
    model: aiModel(server).chatModel(SERVED_NAME),
    messages,
    temperature: 0,
    maxOutputTokens: 24,
  };
  const whole = await generateText(asked);
  const errors: unknown[] = [];
  const stream = streamText({ ...asked, onError: ({ error }) => void errors.push(error) });
  let text = "";
  for await (const delta of stream.textStream) text += delta;
  assert.deepEqual(errors, []);
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, whole.finishReason);
  assert.ok(["stop", "length"].includes(whole.finishReason));
  assert.deepEqual((await stream.usage).outputTokens, whole.usage.outputTokens);
});

Deno.test("check 2: npm ai: a completion model streams; a stop sequence finishes with `stop`", async () => {
  await using server = await openTestServer();
  const asked = {
    model: aiModel(server).completionModel(SERVED_NAME),
    prompt: "Once upon a time",
    temperature: 0,
    maxOutputTokens: 24,
  };
  const characters = [...(await generateText(asked)).text];
  assert.ok(characters.length >= 4);
  const middle = Math.floor(characters.length / 2);
  const stopSequence = characters.slice(middle - 1, middle + 2).join("");
  const stream = streamText({ ...asked, stopSequences: [stopSequence] });
  assert.ok(!(await stream.text).includes(stopSequence));
  assert.equal(await stream.finishReason, "stop");
});

Deno.test("npm ai: an error half-way gives finishReason `error`", async () => {
  await using server = await openFakeServer({ failAt: () => 4 });
  const errors: unknown[] = [];
  const stream = streamText({
    model: aiModel(server).chatModel(SERVED_NAME),
    messages,
    onError: ({ error }) => void errors.push(error),
  });
  for await (const _ of stream.textStream);
  assert.equal(await stream.finishReason, "error");
  assert.equal(errors.length, 1);
});

/** Its type is lost on the way through the client's generics. */
const outputTokens = (usage: unknown) =>
  z.object({ output_tokens: z.int() }).optional().parse(usage)?.output_tokens;

Deno.test("check 3: npm @langchain/openai: streamed text and usage_metadata", async () => {
  await using server = await openTestServer();
  const options = {
    model: SERVED_NAME,
    apiKey: KEY,
    temperature: 0,
    maxTokens: 24,
    configuration: { baseURL: `${server.url}/v1` },
  };
  const model = new ChatOpenAI(options);
  const whole = await model.invoke([new HumanMessage("Say something.")]);
  let text = "";
  let numOutput: number | undefined;
  for await (const chunk of await model.stream([new HumanMessage("Say something.")])) {
    text += chunk.text;
    numOutput = outputTokens(chunk.usage_metadata) ?? numOutput;
  }
  assert.equal(text, whole.text);
  assert.equal(numOutput, outputTokens(whole.usage_metadata));
  assert.ok(numOutput !== undefined && numOutput > 0);
  assert.equal(typeof await new LangChainCompletion(options).invoke("Once"), "string");
});

Deno.test("check 4: benchmark clients: llmperf's and vllm bench's readers get the whole text", async () => {
  await using server = await openTestServer();
  const stream = async (more: object) =>
    await piecesOf(
      await post(server, "/v1/chat/completions", {
        ...PLAIN,
        messages: [{ role: "user", content: [{ type: "text", text: "Say something." }] }],
        stream: true,
        max_completion_tokens: 24,
        stop: null,
        ...more,
      }),
    );
  const whole = await openai(server).chat.completions.create({ ...PLAIN, messages });
  const wanted = whole.choices[0]?.message.content;
  // llmperf asks for no usage; a chunk without a choice would end it.
  const plain = (await stream({})).join("");
  assert.equal(llmperfText(plain), wanted);
  assert.equal(eventData(plain).at(-1), "[DONE]");
  const { text, completionTokens } = vllmBenchText(
    await stream({ stream_options: { include_usage: true } }),
  );
  assert.equal(text, wanted);
  assert.equal(completionTokens, whole.usage?.completion_tokens);
});

Deno.test("echo scores a text as it was scored while it was written", async () => {
  await using server = await openTestServer();
  const written = only(
    (await postCompletion(server, {
      prompt: [1, 40, 41, 42],
      temperature: 0,
      max_tokens: 40,
      logprobs: 2,
      return_token_ids: true,
    })).choices,
  );
  const ids = [1, 40, 41, 42, ...written.token_ids ?? []];
  const echoed = only(
    (await postCompletion(server, { prompt: ids, echo: true, max_tokens: 0, logprobs: 2 }))
      .choices,
  );
  const wrote = written.logprobs?.token_logprobs ?? [];
  const read = echoed.logprobs?.token_logprobs ?? [];
  assert.equal(read.length, ids.length);
  assert.equal(read[0], null);
  assert.ok(wrote.length > 0);
  for (const [index, logprob] of wrote.entries()) {
    assert.ok(Math.abs((read[4 + index] ?? NaN) - (logprob ?? NaN)) < 2e-3, `token ${index}`);
  }
});

Deno.test("check 8: a prompt one token short of the context works; one that fills it is refused", async () => {
  await using server = await openTestServer();
  const ids = Array.from({ length: CONTEXT_LENGTH }, (_, index) => 3 + index % 300);
  const error = await postFailing(server, "/v1/completions", { prompt: ids }, 400);
  assert.equal(error.n_prompt_tokens, CONTEXT_LENGTH);
  assert.equal(error.n_ctx, CONTEXT_LENGTH);
  const answer = await postCompletion(server, { prompt: ids.slice(1), ignore_eos: true });
  assert.equal(only(answer.choices).finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 1);
});
