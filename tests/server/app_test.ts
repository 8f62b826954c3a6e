import { assert } from "std-testing";
import { z } from "zod";
import { createApp, type ServedModel } from "../../src/server/app.ts";
import { DeviceError } from "../../src/gpu/device.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { TemplateError } from "../../src/tokenizer/types.ts";
import { FakeEngine, FakeTokenizer, REPLY_TEXT } from "./_fake.ts";
import { openFakeServer, openServer, SERVED_NAME } from "./_server.ts";
import { failure, post, postChat, postCompletion, postFailing, readAs } from "./_wire.ts";

const modelEntry = z.strictObject({
  id: z.literal(SERVED_NAME),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.literal("tokenbutler"),
  max_model_len: z.literal(256),
  meta: z.strictObject({
    vocab_type: z.literal(2),
    n_vocab: z.int(),
    n_ctx_train: z.int(),
    n_embd: z.int(),
    n_params: z.int(),
    size: z.int(),
  }),
});

Deno.test("GET /v1/models lists the served model; one can be shown by name", async () => {
  await using server = await openFakeServer();
  const list = z.strictObject({ object: z.literal("list"), data: z.array(modelEntry).length(1) });
  await readAs(list, await fetch(`${server.url}/v1/models`));
  await readAs(modelEntry, await fetch(`${server.url}/v1/models/${SERVED_NAME}`));
  await readAs(modelEntry, await fetch(`${server.url}/v1/models/default`));
  const { error } = await readAs(failure, await fetch(`${server.url}/v1/models/gpt/9`), 404);
  assert.equal(error.code, "model_not_found");
});

Deno.test("GET /v1/models/{id} takes a name with a slash, written or escaped", async () => {
  await using server = await openFakeServer({ app: { servedName: "org/name" } });
  for (const path of ["org/name", "org%2Fname"]) {
    const response = await fetch(`${server.url}/v1/models/${path}`);
    assert.equal((await readAs(z.object({ id: z.string() }), response)).id, "org/name");
  }
});

Deno.test("POST /v1/* answers to the served name, `default` and no name; 404 to others", async () => {
  await using server = await openFakeServer();
  for (const model of [SERVED_NAME, "default", undefined, null]) {
    const answer = await postCompletion(server, { model, prompt: "x" });
    assert.equal(answer.model, SERVED_NAME);
  }
  const messages = [{ role: "user", content: "x" }];
  for (
    const [path, body] of [["completions", { prompt: "x" }], ["chat/completions", { messages }]]
  ) {
    for (const model of ["gpt-5", "", "x".repeat(10_000)]) {
      const error = await postFailing(server, `/v1/${path}`, { ...body as object, model }, 404);
      assert.equal(error.code, "model_not_found");
      assert.equal(error.param, "model");
      assert.ok(error.message.includes(SERVED_NAME) && error.message.length < 400);
    }
  }
});

Deno.test("routes answer an unknown path with 404, a wrong method with 405, in the error shape", async () => {
  await using server = await openFakeServer();
  for (const path of ["/", "/v1", "/v1/embeddings", "/v1/models/", "/%00", "/v1/completions/x"]) {
    for (const method of ["GET", "POST", "DELETE"]) {
      const response = await fetch(`${server.url}${path}`, { method });
      const { error } = await readAs(failure, response, 404);
      assert.equal(error.code, "unknown_url");
      assert.match(error.message, /GET \/docs lists what there is\.$/);
    }
  }
  const wrong = [
    ["GET", "/v1/completions", "POST"],
    ["PUT", "/v1/chat/completions", "POST"],
    ["GET", "/tokenize", "POST"],
    ["POST", "/v1/models", "GET, HEAD"],
    ["DELETE", "/v1/models/x", "GET, HEAD"],
    ["POST", "/health", "GET, HEAD"],
  ] as const;
  for (const [method, path, allow] of wrong) {
    const response = await fetch(`${server.url}${path}`, { method });
    assert.equal(response.headers.get("allow"), allow);
    assert.equal((await readAs(failure, response, 405)).error.code, "method_not_allowed");
  }
  const head = await fetch(`${server.url}/health`, { method: "HEAD" });
  assert.equal(head.status, 200);
});

Deno.test("responses carry the caller's request id, or one of their own", async () => {
  await using server = await openFakeServer();
  const idFor = async (given: string | undefined, path = "/health") => {
    const headers = given === undefined ? {} : { "x-request-id": given };
    const response = await fetch(`${server.url}${path}`, { headers });
    await response.body?.cancel();
    return response.headers.get("x-request-id");
  };
  assert.equal(await idFor("abc-1"), "abc-1");
  assert.equal(await idFor("abc-2", "/nowhere"), "abc-2");
  assert.match(await idFor(undefined) ?? "", /^[0-9a-f-]{36}$/);
  assert.match(await idFor("x".repeat(200)) ?? "", /^[0-9a-f-]{36}$/);
  const body = { prompt: "x", stream: true };
  const stream = await post(server, "/v1/completions", body, { headers: { "x-request-id": "s" } });
  await stream.text();
  assert.equal(stream.headers.get("x-request-id"), "s");
});

Deno.test("createApp() answers 503 while the model loads and 200 after", async () => {
  let arrived: (model: ServedModel) => void = () => {};
  const engine = new FakeEngine();
  const promise = new Promise<ServedModel>((resolve) => arrived = resolve);
  await using server = await openServer({ engine }, { model: promise });
  const health = await fetch(`${server.url}/health`);
  assert.equal(health.headers.get("retry-after"), "1");
  const { error } = await readAs(failure, health, 503);
  assert.equal(error.message, "Loading model");
  assert.equal(error.type, "unavailable_error");
  assert.equal(error.code, 503);
  await postFailing(server, "/v1/completions", { prompt: "x" }, 503);
  await readAs(failure, await fetch(`${server.url}/v1/models`), 503);
  arrived({ engine, tokenizer: new FakeTokenizer() });
  const ok = z.strictObject({ status: z.literal("ok") });
  await readAs(ok, await fetch(`${server.url}/health`));
  await readAs(ok, await fetch(`${server.url}/v1/health`));
  const answer = await postCompletion(server, { prompt: "x", max_tokens: 40 });
  assert.equal(answer.choices[0]?.text, REPLY_TEXT);
});

Deno.test("createApp() says why a model did not load, and that trying again is useless", async () => {
  const app = createApp({
    model: Promise.reject(new DeviceError("no_adapter", "no adapter")),
    servedName: "x",
    version: "0",
  });
  await Promise.resolve();
  const response = await app.fetch(new Request("http://h/health"));
  assert.equal(response.headers.get("x-should-retry"), "false");
  assert.match((await readAs(failure, response, 503)).error.message, /no adapter/);
});

Deno.test("createApp() tells clients no directories of this machine", async () => {
  const messageOf = async (cause: Error) => {
    const app = createApp({ model: Promise.reject(cause), servedName: "x", version: "0" });
    await Promise.resolve();
    const response = await app.fetch(new Request("http://h/health"));
    return (await readAs(failure, response, 503)).error.message;
  };
  const start = "The model could not be loaded";
  const path = "/home/a b/models/m.gguf";
  assert.equal(
    await messageOf(new ModelFileError("truncated", path, `${path} ends early`)),
    `${start}: m.gguf ends early`,
  );
  assert.equal(
    await messageOf(new ModelFileError("malformed", "/a/b/", "/a/b/x.json: no weight_map in 3/4")),
    `${start}: b/x.json: no weight_map in 3/4`,
  );
  assert.equal(
    await messageOf(
      new DeviceError("failed", "see file:///opt/x/y.ts, C:\\u\\v.dll, https://a.b/c/"),
    ),
    `${start}: see y.ts, v.dll, https://a.b/c/`,
  );
  assert.equal(await messageOf(new Error("ENOENT /home/me/x")), `${start}.`);
});

Deno.test("GET /props tells the context, the template and the adapter", async () => {
  await using server = await openFakeServer();
  const props = z.object({
    default_generation_settings: z.object({ n_ctx: z.literal(256), params: z.object({}) }),
    total_slots: z.literal(4),
    model_alias: z.literal(SERVED_NAME),
    model_path: z.literal("tiny.gguf"),
    is_sleeping: z.literal(false),
    chat_template: z.string(),
    build_info: z.string(),
    adapter: z.object({ description: z.string() }),
  });
  await readAs(props, await fetch(`${server.url}/props`));
});

Deno.test("GET /props says whether the first slot is busy, and what chats can have", async () => {
  await using server = await openFakeServer();
  const { engine } = server;
  const template = server.model.template!;
  const props = async () =>
    await readAs(
      z.object({
        default_generation_settings: z.object({ id: z.literal(0), is_processing: z.boolean() }),
        chat_template_caps: z.record(z.string(), z.boolean()),
      }),
      await fetch(`${server.url}/props`),
    );
  const render = template.render.bind(template);
  template.render = () => Promise.reject(new TemplateError("unavailable", "no worker"));
  // Nothing is said of what could not be tried, and it is tried again.
  assert.ok(!("supports_system_role" in (await props()).chat_template_caps));
  template.render = render;
  const idle = await props();
  assert.equal(idle.default_generation_settings.is_processing, false);
  assert.equal(idle.chat_template_caps["supports_system_role"], true);
  assert.equal(idle.chat_template_caps["supports_tools"], false);
  const stats = engine.stats.bind(engine);
  engine.stats = () => new Promise(() => {});
  assert.equal((await props()).default_generation_settings.is_processing, true);
  engine.stats = stats;

  await using bare = await openFakeServer({ noTemplate: true });
  const response = await fetch(`${bare.url}/props`);
  assert.deepEqual((await response.json()).chat_template_caps, {});

  await using strict = await openFakeServer();
  strict.model.template!.render = () => Promise.reject(new TemplateError("raised", "no system"));
  const { chat_template_caps: caps } = await (await fetch(`${strict.url}/props`)).json();
  assert.equal(caps.supports_system_role, false);
});

Deno.test("POST /tokenize and /detokenize go there and back", async () => {
  await using server = await openFakeServer({ addsBos: true });
  const tokens = z.strictObject({ tokens: z.array(z.int()) });
  const idsOf = async (body: object) =>
    (await readAs(tokens, await post(server, "/tokenize", body))).tokens;
  assert.deepEqual(await idsOf({ content: "aé" }), [97, 195, 169]);
  assert.deepEqual(await idsOf({ content: "" }), []);
  assert.deepEqual(await idsOf({ content: "a", add_special: true }), [256, 97]);
  assert.deepEqual(await idsOf({ content: "</s>" }), [257]);
  assert.equal((await idsOf({ content: "</s>", parse_special: false })).length, 4);
  const piece = z.union([z.string(), z.array(z.int())]);
  const pieces = z.strictObject({ tokens: z.array(z.strictObject({ id: z.int(), piece })) });
  const body = { content: "aé", with_pieces: true };
  assert.deepEqual((await readAs(pieces, await post(server, "/tokenize", body))).tokens, [
    { id: 97, piece: "a" },
    { id: 195, piece: [195] },
    { id: 169, piece: [169] },
  ]);
  const content = z.strictObject({ content: z.string() });
  const back = await post(server, "/detokenize", { tokens: [97, 195, 169, 257] });
  assert.equal((await readAs(content, back)).content, "aé</s>");
  for (const bad of [{}, { content: 5 }, { content: null }, { content: "x", with_pieces: 1 }]) {
    await postFailing(server, "/tokenize", bad, 400);
  }
  for (const bad of [{}, { tokens: "x" }, { tokens: [1e9] }, { tokens: [-1] }, { tokens: [[1]] }]) {
    await postFailing(server, "/detokenize", bad, 400);
  }
});

Deno.test("POST /apply-template gives the prompt as text", async () => {
  await using server = await openFakeServer();
  const messages = [{ role: "user", content: [{ type: "text", text: "hi" }] }];
  const prompt = z.strictObject({ prompt: z.string() });
  const full = await readAs(prompt, await post(server, "/apply-template", { messages }));
  assert.equal(full.prompt, "<|turn|>user:hi<|turn|>assistant:");
  const body = { messages, add_generation_prompt: false };
  const bare = await readAs(prompt, await post(server, "/apply-template", body));
  assert.equal(bare.prompt, "<|turn|>user:hi");
  const raising = { messages: [{ role: "user", content: "RAISE" }] };
  const error = await postFailing(server, "/apply-template", raising, 400);
  assert.equal(error.code, "template_raised");
  assert.match(error.message, /roles must alternate/);
});

Deno.test("a template that nobody can render is 500 without internals, and the next request tries again", async () => {
  await using server = await openFakeServer();
  const template = server.model.template!;
  const { render } = template;
  const reason = "the worker does not start: file:///home/me/x";
  template.render = () => Promise.reject(new TemplateError("unavailable", reason));
  const body = { messages: [{ role: "user", content: "hi" }], max_tokens: 1 };
  for (const path of ["/v1/chat/completions", "/apply-template"]) {
    const error = await postFailing(server, path, body, 500);
    assert.equal(error.code, "template_unavailable");
    assert.ok(!error.message.includes("home"));
  }
  assert.match(server.logged[0] ?? "", /the worker does not start/);
  template.render = render;
  await postChat(server, body);
});
