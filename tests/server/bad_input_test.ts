import { assert } from "std-testing";
import { PADDED_VOCAB_SIZE } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import { failure, post, postChat, postCompletion, postFailing, readAs } from "./_wire.ts";

/** Most time that a refusal may take. */
const REFUSAL_MS = 1000;

const many = <T>(count: number, value: T) => Array.from({ length: count }, () => value);

/** Fields that both generation routes check, with the field that the error names. */
const BOTH: readonly (readonly [body: object, param: string])[] = [
  [{ temperature: -0.1 }, "temperature"],
  [{ temperature: 2.1 }, "temperature"],
  [{ temperature: "1" }, "temperature"],
  [{ temperature: true }, "temperature"],
  [{ top_p: -0.1 }, "top_p"],
  [{ top_p: 1.1 }, "top_p"],
  [{ top_k: -2 }, "top_k"],
  [{ top_k: 1.5 }, "top_k"],
  [{ top_k: 1e300 }, "top_k"],
  [{ min_p: 1.1 }, "min_p"],
  [{ typical_p: -1 }, "typical_p"],
  [{ frequency_penalty: -2.1 }, "frequency_penalty"],
  [{ frequency_penalty: 2.1 }, "frequency_penalty"],
  [{ presence_penalty: -2.1 }, "presence_penalty"],
  [{ presence_penalty: 2.1 }, "presence_penalty"],
  [{ repetition_penalty: -0.1 }, "repetition_penalty"],
  [{ repetition_penalty: 10.1 }, "repetition_penalty"],
  [{ repeat_penalty: 11 }, "repeat_penalty"],
  [{ repeat_last_n: -2 }, "repeat_last_n"],
  [{ max_tokens: -1 }, "max_tokens"],
  [{ max_tokens: 1.5 }, "max_tokens"],
  [{ max_tokens: 1e18 }, "max_tokens"],
  [{ max_tokens: "9" }, "max_tokens"],
  [{ max_completion_tokens: -1 }, "max_completion_tokens"],
  [{ min_tokens: -1 }, "min_tokens"],
  [{ min_tokens: 9, max_tokens: 8 }, "min_tokens"],
  [{ n: 0 }, "n"],
  [{ n: 17 }, "n"],
  [{ n: 1.5 }, "n"],
  [{ best_of: 2 }, "best_of"],
  [{ best_of: 0 }, "best_of"],
  [{ seed: 1.5 }, "seed"],
  [{ seed: "1" }, "seed"],
  [{ seed: 1e300 }, "seed"],
  [{ stop: many(17, "a") }, "stop"],
  [{ stop: ["a", 5] }, "stop[1]"],
  [{ stop: 5 }, "stop"],
  [{ stop: {} }, "stop"],
  [{ stop: "\ud800" }, "stop[0]"],
  [{ stop: "a".repeat(5000) }, "stop[0]"],
  [{ stop_token_ids: [-1] }, "stop_token_ids[0]"],
  [{ stop_token_ids: [PADDED_VOCAB_SIZE] }, "stop_token_ids[0]"],
  [{ stop_token_ids: 5 }, "stop_token_ids"],
  [{ logit_bias: 5 }, "logit_bias"],
  [{ logit_bias: { a: 1 } }, "logit_bias"],
  [{ logit_bias: { "1": 101 } }, "logit_bias.1"],
  [{ logit_bias: { "1": "x" } }, "logit_bias.1"],
  [{ logit_bias: { [PADDED_VOCAB_SIZE]: 1 } }, "logit_bias"],
  [{ logit_bias: [[PADDED_VOCAB_SIZE, false]] }, "logit_bias"],
  [{ logit_bias: [[1, 2, 3]] }, "logit_bias[0]"],
  [{ ignore_eos: "yes" }, "ignore_eos"],
  [{ stream: "yes" }, "stream"],
  [{ stream: 1 }, "stream"],
  [{ stream_options: true }, "stream_options"],
  [{ stream_options: { include_usage: 1 } }, "stream_options.include_usage"],
  [{ model: 5 }, "model"],
  [{ skip_special_tokens: 0 }, "skip_special_tokens"],
  // What would change the answer and is not there.
  [{ response_format: { type: "json_object" } }, "response_format"],
  [{ response_format: { type: "json_schema", json_schema: {} } }, "response_format"],
  [{ response_format: "text" }, "response_format"],
  [{ grammar: "root ::= x" }, "grammar"],
  [{ json_schema: { type: "object" } }, "json_schema"],
  [{ structured_outputs: { regex: "a" } }, "structured_outputs"],
  [{ guided_json: { type: "object" } }, "guided_json"],
  [{ guided_regex: "a" }, "guided_regex"],
  [{ guided_choice: ["a"] }, "guided_choice"],
  [{ guided_grammar: "x" }, "guided_grammar"],
  [{ use_beam_search: true }, "use_beam_search"],
  [{ length_penalty: 2 }, "length_penalty"],
  [{ logit_processors: ["x"] }, "logit_processors"],
  [{ logits_processors: ["x"] }, "logits_processors"],
  [{ samplers: ["top_k"] }, "samplers"],
  [{ mirostat: 2 }, "mirostat"],
  [{ dry_multiplier: 0.8 }, "dry_multiplier"],
  [{ xtc_probability: 0.5 }, "xtc_probability"],
  [{ dynatemp_range: 0.5 }, "dynatemp_range"],
  [{ top_n_sigma: 1 }, "top_n_sigma"],
  [{ allowed_token_ids: [1] }, "allowed_token_ids"],
  [{ bad_words: ["x"] }, "bad_words"],
  [{ truncate_prompt_tokens: 5 }, "truncate_prompt_tokens"],
  [{ include_stop_str_in_output: true }, "include_stop_str_in_output"],
  [{ prompt_logprobs: 1 }, "prompt_logprobs"],
];

const COMPLETION: readonly (readonly [body: object, param: string])[] = [
  [{ prompt: null }, "prompt"],
  [{ prompt: 5 }, "prompt"],
  [{ prompt: {} }, "prompt"],
  [{ prompt: [] }, "prompt"],
  [{ prompt: [[]] }, "prompt"],
  [{ prompt: "" }, "prompt"],
  [{ prompt: ["a", ""] }, "prompt[1]"],
  [{ prompt: ["a", 5] }, "prompt[1]"],
  [{ prompt: [5, "a"] }, "prompt[1]"],
  [{ prompt: [1, -1] }, "prompt[1]"],
  [{ prompt: [1.5] }, "prompt[0]"],
  [{ prompt: [PADDED_VOCAB_SIZE] }, "prompt[0]"],
  [{ prompt: [[1], [2, PADDED_VOCAB_SIZE]] }, "prompt[1][1]"],
  [{ prompt: many(257, "a") }, "prompt"],
  [{ logprobs: -1 }, "logprobs"],
  [{ logprobs: 21 }, "logprobs"],
  [{ logprobs: true }, "logprobs"],
  [{ echo: 1 }, "echo"],
  [{ suffix: "x" }, "suffix"],
];

const user = { role: "user", content: "x" };
const CHAT: readonly (readonly [body: object, param: string])[] = [
  [{ messages: null }, "messages"],
  [{ messages: [] }, "messages"],
  [{ messages: "hi" }, "messages"],
  [{ messages: ["hi"] }, "messages[0]"],
  [{ messages: [null] }, "messages[0]"],
  [{ messages: [{ content: "x" }] }, "messages[0].role"],
  [{ messages: [user, { role: "robot", content: "x" }] }, "messages[1].role"],
  [{ messages: [{ role: "user" }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: null }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: 5 }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: [] }] }, "messages[0].content"],
  [{ messages: [{ role: "user", content: ["x"] }] }, "messages[0].content[0]"],
  [
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
    "messages[0].content[0].type",
  ],
  [
    { messages: [{ role: "user", content: [{ type: "text", text: 5 }] }] },
    "messages[0].content[0].text",
  ],
  [
    { messages: [user, { role: "assistant", tool_calls: [{ id: "1" }] }] },
    "messages[1].tool_calls",
  ],
  [{ messages: [{ role: "user", content: "RAISE" }] }, "messages"],
  [{ logprobs: 5 }, "logprobs"],
  [{ logprobs: true, top_logprobs: 21 }, "top_logprobs"],
  [{ logprobs: true, top_logprobs: -1 }, "top_logprobs"],
  [{ top_logprobs: 2 }, "top_logprobs"],
  [{ tools: [{ type: "function", function: { name: "f" } }] }, "tools"],
  [{ functions: [{ name: "f" }] }, "functions"],
  [{ tool_choice: "required" }, "tool_choice"],
  [{ tool_choice: { type: "function", function: { name: "f" } } }, "tool_choice"],
  [{ function_call: { name: "f" } }, "function_call"],
  [{ modalities: ["text", "audio"] }, "modalities"],
  [{ audio: { voice: "x" } }, "audio"],
  [{ chat_template: "{{ x }}" }, "chat_template"],
  [{ chat_template_kwargs: { enable_thinking: false } }, "chat_template_kwargs"],
];

const SMALLEST = {
  "/v1/completions": { prompt: "x", max_tokens: 1 },
  "/v1/chat/completions": { messages: [user], max_tokens: 1 },
};

for (
  const [path, cases] of [
    ["/v1/completions", [...BOTH, ...COMPLETION]],
    ["/v1/chat/completions", [...BOTH, ...CHAT]],
  ] as const
) {
  Deno.test(`POST ${path} answers bad fields with 400, at once, and stays alive`, async () => {
    await using server = openFakeServer();
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
  await using server = openFakeServer();
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
  await using server = openFakeServer();
  for (
    const edge of [
      { temperature: 0, top_p: 0, n: 1, frequency_penalty: -2, presence_penalty: -2 },
      { temperature: 2, top_p: 1, n: 16, frequency_penalty: 2, presence_penalty: 2 },
      { repetition_penalty: 0, max_tokens: 0, min_p: 0, typical_p: 0, top_k: -1 },
      { repetition_penalty: 10, stop: many(16, "a"), min_p: 1, typical_p: 1, logprobs: 20 },
      { prompt: [0, PADDED_VOCAB_SIZE - 1], logprobs: 0, logit_bias: { "0": -100, "1": 100 } },
    ]
  ) await postCompletion(server, { prompt: "x", ...edge });
  for (const request of server.engine.requests) {
    assert.ok(request.sampling.repetitionPenalty > 0, "0 would divide by zero");
    assert.ok(request.sampling.topK >= 0);
  }
});

Deno.test("POST /v1/* refuses what is not a JSON object", async () => {
  await using server = openFakeServer();
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
    "[".repeat(1e6),
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
  await using server = openFakeServer();
  const deep = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`;
  const ok = await post(server, "/v1/completions", `{"prompt":"x","max_tokens":1,"deep":${deep}}`);
  assert.equal(ok.status, 200);
  await ok.body?.cancel();
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
  await using server = openFakeServer({ app: { bodyLimitBytes } });
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
  await using server = openFakeServer({ contextLength: 64 });
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
  await using server = openFakeServer({ contextLength: 64 });
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

Deno.test("POST /v1/* names what a model without tokenizer or template lacks", async () => {
  await using ids = openFakeServer({ idsOnly: true });
  const text = await postFailing(ids, "/v1/completions", { prompt: "x" }, 400);
  assert.equal(text.code, "no_tokenizer");
  assert.match(text.message, /token ids/);
  const chat = await postFailing(ids, "/v1/chat/completions", { messages: [user] }, 400);
  assert.equal(chat.code, "no_tokenizer");
  const stop = await postFailing(ids, "/v1/completions", { prompt: [1], stop: "x" }, 400);
  assert.equal(stop.param, "stop");
  await postFailing(ids, "/tokenize", { content: "x" }, 400);
  await postFailing(ids, "/apply-template", { messages: [user] }, 400);

  await using plain = openFakeServer({ noTemplate: true });
  const template = await postFailing(plain, "/v1/chat/completions", { messages: [user] }, 400);
  assert.equal(template.code, "no_chat_template");
});
