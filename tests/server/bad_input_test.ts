import { assert, fc } from "std-testing";
import { BAD_CHAT, BAD_COMPLETION, BAD_GENERATION } from "./_bad_fields.ts";
import { PADDED_VOCAB_SIZE } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import { failure, post, postChat, postCompletion, postFailing, readAs } from "./_wire.ts";

/** Most time that a refusal may take. */
const REFUSAL_MS = 1000;

const user = { role: "user", content: "x" };
const SMALLEST = {
  "/v1/completions": { prompt: "x", max_tokens: 1 },
  "/v1/chat/completions": { messages: [user], max_tokens: 1 },
};

const ROUTES = Object.entries(SMALLEST);

for (
  const [path, cases] of [
    ["/v1/completions", [...BAD_GENERATION, ...BAD_COMPLETION]],
    ["/v1/chat/completions", [...BAD_GENERATION, ...BAD_CHAT]],
  ] as const
) {
  Deno.test(`POST ${path} answers bad fields with 400, at once, and stays alive`, async () => {
    await using server = await openFakeServer();
    for (const [body, param] of cases) {
      for (const stream of [false, true]) {
        const started = performance.now();
        const sent = { ...SMALLEST[path], stream, ...body };
        const error = await postFailing(server, path, sent, 400);
        assert.equal(error.type, "invalid_request_error");
        assert.equal(error.param, param, JSON.stringify(body).slice(0, 200));
        assert.ok(performance.now() - started < REFUSAL_MS, JSON.stringify(body).slice(0, 200));
        const [field = ""] = param.split(/[.[]/);
        assert.ok(error.message.includes(field), error.message);
      }
    }
    assert.equal(server.engine.requests.length, 0);
    const after = await post(server, path, SMALLEST[path]);
    assert.equal(after.status, 200);
    await after.body?.cancel();
  });
}

Deno.test("POST /v1/* takes what is not built at the value that changes nothing", async () => {
  await using server = await openFakeServer();
  const neutral = {
    response_format: { type: "text" },
    grammar: "",
    json_schema: {},
    use_beam_search: false,
    length_penalty: 1,
    mirostat: 0,
    dry_multiplier: 0,
    xtc_probability: 0,
    dynatemp_range: 0,
    top_n_sigma: -1,
    best_of: 1,
    include_stop_str_in_output: false,
  };
  await postCompletion(server, { prompt: "x", ...neutral, suffix: "" });
  await postChat(server, {
    messages: [user],
    ...neutral,
    tools: [],
    tool_choice: "none",
    functions: [],
    modalities: ["text"],
    chat_template_kwargs: {},
  });
});

Deno.test("POST /v1/* takes the ends of each range", async () => {
  await using server = await openFakeServer();
  for (
    const edge of [
      { temperature: 0, top_p: 0, n: 1, frequency_penalty: -2, presence_penalty: -2 },
      { temperature: 2, top_p: 1, n: 16, frequency_penalty: 2, presence_penalty: 2 },
      { repetition_penalty: 0, max_tokens: 0, min_p: 0, typical_p: 0, top_k: -1 },
      { repetition_penalty: 10, stop: Array(16).fill("a"), min_p: 1, typical_p: 1, logprobs: 20 },
      { prompt: [0, PADDED_VOCAB_SIZE - 1], logprobs: 0, logit_bias: { "0": -100, "1": 100 } },
    ]
  ) await postCompletion(server, { prompt: "x", ...edge });
  for (const request of server.engine.requests) {
    assert.ok(request.sampling.repetitionPenalty > 0, "0 would divide by zero");
    assert.ok(request.sampling.topK >= 0);
  }
});

Deno.test("POST /v1/* refuses what is not a JSON object", async () => {
  await using server = await openFakeServer();
  const bodies = [
    "",
    "{",
    "nul",
    "[1]",
    "5",
    '"x"',
    "null",
    '{"prompt":"x",}',
    "\xff",
  ];
  for (const path of Object.keys(SMALLEST)) {
    for (const body of bodies) {
      const error = await postFailing(server, path, body, 400);
      assert.equal(error.code, "invalid_json");
    }
  }
  const response = await post(server, "/v1/completions", "", { body: Uint8Array.of(34, 255, 34) });
  assert.equal((await readAs(failure, response, 400)).error.code, "invalid_json");
});

Deno.test("POST /v1/* is not harmed by hostile members", async () => {
  await using server = await openFakeServer();
  const deep = (levels: number) => `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;
  for (const [levels, status] of [[127, 200], [128, 400], [100_000, 400]] as const) {
    const body = `{"prompt":"x","max_tokens":1,"deep":${deep(levels)}}`;
    const response = await post(server, "/v1/completions", body);
    assert.equal(response.status, status);
    await response.body?.cancel();
  }
  const polluted = '{"prompt":"x","__proto__":{"temperature":9},"constructor":{"prototype":{}}}';
  const fine = await post(server, "/v1/completions", polluted);
  assert.equal(fine.status, 200);
  await fine.body?.cancel();
  // A million bad elements are one error.
  const started = performance.now();
  const body = `{"prompt":[1,${'"a",'.repeat(1e6)}1]}`;
  assert.equal((await postFailing(server, "/v1/completions", body, 400)).param, "prompt[1]");
  const messages = `{"messages":[${"5,".repeat(1e6)}5]}`;
  await postFailing(server, "/v1/chat/completions", messages, 400);
  assert.ok(performance.now() - started < 2 * REFUSAL_MS);
});

Deno.test("POST /v1/* refuses a body over the limit, announced or not, and takes one at it", async () => {
  const bodyLimitBytes = 1000;
  await using server = await openFakeServer({ app: { limits: { bodyBytes: bodyLimitBytes } } });
  const sized = (bytes: number) => {
    const body = { prompt: "x", max_tokens: 1, pad: "" };
    return JSON.stringify({ ...body, pad: "p".repeat(bytes - JSON.stringify(body).length) });
  };
  const atLimit = await post(server, "/v1/completions", sized(bodyLimitBytes));
  assert.equal(atLimit.status, 200);
  await atLimit.body?.cancel();
  const over = new TextEncoder().encode(sized(bodyLimitBytes + 1));
  for (const body of [over, new Blob([over]).stream()]) {
    const response = await post(server, "/v1/completions", "", { body });
    const { error } = await readAs(failure, response, 413);
    assert.match(error.message, /1000 bytes/);
  }
  const huge = await post(server, "/v1/completions", "p".repeat(8 * 1024 * 1024));
  await readAs(failure, huge, 413);
});

Deno.test("POST /v1/* refuses a prompt that leaves no room, with both numbers", async () => {
  await using server = await openFakeServer({ contextLength: 64 });
  const prompt = "p".repeat(64);
  const body = { prompt, max_tokens: 1 };
  for (const stream of [false, true]) {
    const error = await postFailing(server, "/v1/completions", { ...body, stream }, 400);
    assert.equal(error.code, "context_length_exceeded");
    assert.equal(error.type, "invalid_request_error");
    assert.equal(error.param, "prompt");
    assert.equal(error.n_prompt_tokens, 64);
    assert.equal(error.n_ctx, 64);
    assert.match(error.message, /maximum context length is 64 tokens/);
    assert.match(error.message, /has 64 tokens/);
  }
  const messages = [{ role: "user", content: prompt }];
  const error = await postFailing(server, "/v1/chat/completions", { messages }, 400);
  assert.equal(error.code, "context_length_exceeded");
  assert.equal(error.param, "messages");

  const fits = await postCompletion(server, { prompt: "p".repeat(63) });
  assert.equal(fits.choices[0]?.finish_reason, "length");
  assert.equal(fits.usage.completion_tokens, 1);
});

Deno.test("POST /v1/* refuses a hopelessly long prompt without tokenizing it", async () => {
  await using server = await openFakeServer({ contextLength: 64 });
  server.tokenizer.encode = () => {
    throw new Error("must not be called");
  };
  const prompt = "p".repeat(1_000_000);
  const error = await postFailing(server, "/v1/completions", { prompt }, 400);
  assert.equal(error.code, "context_length_exceeded");
  assert.match(error.message, /at least \d+ tokens/);
  const messages = [{ role: "user", content: prompt }];
  await postFailing(server, "/v1/chat/completions", { messages }, 400);
});

Deno.test("POST /v1/* caps the characters of a text whose tokens could be long", async () => {
  await using server = await openFakeServer({ contextLength: 1024 });
  const { tokenizer } = server;
  // A token of 1,000 bytes: nothing but counting could tell how many tokens a text has.
  const tokenBytes = tokenizer.tokenBytes.bind(tokenizer);
  tokenizer.tokenBytes = (id) => id === 0 ? new Uint8Array(1000) : tokenBytes(id);
  let encoded = 0;
  tokenizer.encode = () => [encoded++];
  const at = "p".repeat(16 * 1024);
  for (const prompt of [`${at}p`, ["p", `${at}p`]]) {
    const error = await postFailing(server, "/v1/completions", { prompt }, 400);
    assert.equal(error.code, "context_length_exceeded");
    assert.equal(error.n_ctx, 1024);
    assert.match(error.message, /has 16385 characters.*context length is 1024.*at most 16384/);
  }
  const messages = [{ role: "user", content: `${at}p` }];
  for (const path of ["/v1/chat/completions", "/apply-template"]) {
    assert.equal((await postFailing(server, path, { messages }, 400)).param, "messages");
  }
  assert.equal(encoded, 1);
  await postCompletion(server, { prompt: at, max_tokens: 1 });
  assert.equal(encoded, 2);
});

Deno.test("POST /tokenize takes 512 Ki characters and no more", async () => {
  await using server = await openFakeServer();
  server.tokenizer.encode = () => [1];
  const content = "p".repeat(512 * 1024);
  const response = await post(server, "/tokenize", { content });
  assert.equal(response.status, 200);
  await response.body?.cancel();
  const error = await postFailing(server, "/tokenize", { content: `${content}p` }, 400);
  assert.equal(error.param, "content");
  assert.match(error.message, /at most 524288 characters/);
});

Deno.test("POST /v1/* names what a model without tokenizer or template lacks", async () => {
  await using ids = await openFakeServer({ idsOnly: true });
  const text = await postFailing(ids, "/v1/completions", { prompt: "x" }, 400);
  assert.equal(text.code, "no_tokenizer");
  assert.match(text.message, /token ids/);
  const chat = await postFailing(ids, "/v1/chat/completions", { messages: [user] }, 400);
  assert.equal(chat.code, "no_tokenizer");
  const stop = await postFailing(ids, "/v1/completions", { prompt: [1], stop: "x" }, 400);
  assert.equal(stop.param, "stop");
  await postFailing(ids, "/tokenize", { content: "x" }, 400);
  await postFailing(ids, "/apply-template", { messages: [user] }, 400);

  await using plain = await openFakeServer({ noTemplate: true });
  const template = await postFailing(plain, "/v1/chat/completions", { messages: [user] }, 400);
  assert.equal(template.code, "no_chat_template");
});

Deno.test("POST /v1/* answers any JSON with an answer or a 4xx, never with a failure", async () => {
  await using server = await openFakeServer();
  const fields = [
    ...new Set(
      [...BAD_GENERATION, ...BAD_COMPLETION, ...BAD_CHAT].flatMap(([body]) => Object.keys(body)),
    ),
  ];
  const value = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom(0, 1, -1, 2, 0.5, 1e308, -1e308, 2 ** 53, "", "x", true, false, [], {}),
  );
  const changes = fc.array(fc.tuple(fc.constantFrom(...fields), value), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...ROUTES), changes, async ([path, body], changes) => {
      const sent = { ...body, ...Object.fromEntries(changes) };
      const response = await post(server, path, sent);
      const text = await response.text();
      assert.ok([200, 400, 404].includes(response.status), text);
      if (response.status !== 200) failure.parse(JSON.parse(text));
    }),
    { seed: 3, numRuns: 400 },
  );
  assert.deepEqual(server.logged, []);
});
