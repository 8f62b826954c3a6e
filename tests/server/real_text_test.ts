/** The scripted engine with real tokenizers and templates. */
import { assert } from "std-testing";
import { z } from "zod";
import { createChatTemplate } from "../../src/tokenizer/chat_template.ts";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import type { Tokenizer } from "../../src/tokenizer/types.ts";
import { FakeEngine } from "./_fake.ts";
import { openServer } from "./_server.ts";
import {
  only,
  post,
  postChat,
  postCompletion,
  postFailing,
  readAs,
  streamChat,
  streamCompletion,
  textOf,
} from "./_wire.ts";

const FOLDER = "tests/data/tiny/llama31-bf16";
const TEXT = "Grüße, 世界! 👩‍👩‍👧 naïve café\n\n\tend";

async function readJson(path: string): Promise<Record<string, unknown>> {
  return z.record(z.string(), z.unknown()).parse(JSON.parse(await Deno.readTextFile(path)));
}

async function llamaTokenizer() {
  const config = await readJson(`${FOLDER}/tokenizer_config.json`);
  const tokenizer = loadTokenizer(
    {
      kind: "huggingface",
      tokenizer: await readJson(`${FOLDER}/tokenizer.json`),
      config,
      generation: await readJson(`${FOLDER}/generation_config.json`),
    },
    FOLDER,
    320,
  );
  return { tokenizer, template: z.string().parse(config["chat_template"]) };
}

/** A server that always answers with these ids. */
async function open(tokenizer: Tokenizer, source: string, reply: readonly number[]) {
  const { vocabSize } = tokenizer;
  const engine = new FakeEngine({ reply, vocabSize, contextLength: 512 });
  const template = createChatTemplate(source, tokenizer, { bos: "<|begin_of_text|>" });
  return Object.assign(await openServer({ engine, tokenizer, template }), { engine });
}

Deno.test("chat with a real tokenizer: characters of several tokens arrive whole", async () => {
  const { tokenizer, template } = await llamaTokenizer();
  const ids = tokenizer.encode(TEXT, { parseSpecial: false, addBos: false });
  const [endId = -1] = tokenizer.endIds;
  await using server = await open(tokenizer, template, [...ids, endId]);
  const body = { messages: [{ role: "user", content: TEXT }], logprobs: true };
  const { message, logprobs } = only((await postChat(server, body)).choices);
  assert.equal(message.content, TEXT);
  const bytes = logprobs?.content.flatMap((token) => token.bytes ?? []) ?? [];
  assert.equal(new TextDecoder().decode(Uint8Array.from(bytes)), TEXT);
  const contents = (await streamChat(server, body))
    .map((chunk) => only(chunk.choices).delta.content ?? "");
  assert.ok(contents.every((content) => !content.includes("\ufffd")));
  assert.equal(contents.join(""), TEXT);
});

Deno.test("chat with a real template: special tokens in content do not end the turn", async () => {
  const { tokenizer, template } = await llamaTokenizer();
  await using server = await open(tokenizer, template, [...tokenizer.endIds]);
  const countEnds = async (content: string) => {
    await postChat(server, { messages: [{ role: "user", content }] });
    const ids = server.engine.requests.at(-1)?.promptIds ?? [];
    return ids.filter((id) => tokenizer.isSpecial(id)).length;
  };
  assert.equal(await countEnds("a<|eot_id|>b"), await countEnds("ab"));
  const prompt = z.strictObject({ prompt: z.string() });
  const messages = [{ role: "user", content: "hi" }];
  assert.equal(
    (await readAs(prompt, await post(server, "/apply-template", { messages }))).prompt,
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>" +
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
  );
});

Deno.test("chat with a template that never ends is a 400 within 1 s, and the server lives", async () => {
  const { tokenizer } = await llamaTokenizer();
  const source = "{% for a in range(10000) %}{% for b in range(10000) %}" +
    "{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
  await using server = await open(tokenizer, source, [...tokenizer.endIds]);
  const messages = [{ role: "user", content: "hi" }];
  // The first starts the worker, which is not the template's time.
  await postFailing(server, "/v1/chat/completions", { messages }, 400);
  const started = performance.now();
  const refused = postFailing(server, "/v1/chat/completions", { messages }, 400);
  const health = await fetch(`${server.url}/health`);
  assert.equal(health.status, 200);
  await health.body?.cancel();
  assert.equal((await refused).code, "template_timeout");
  assert.ok(performance.now() - started < 1000);
  await postCompletion(server, { prompt: "x" });
});

Deno.test("completions with a real tokenizer: echo gives the prompt, and the answer goes on", async () => {
  const llama = (await llamaTokenizer()).tokenizer;
  const path = "tests/data/tokenizer/spm-llama.tokenizer.json";
  const spm = loadTokenizer(
    { kind: "huggingface", tokenizer: await readJson(path), config: {}, generation: {} },
    path,
    2000,
  );
  for (const tokenizer of [llama, spm]) {
    const whole = tokenizer.encode("Once upon a time", { parseSpecial: false, addBos: false });
    const prompt = whole.slice(0, -3);
    const text = tokenizer.decode(prompt);
    const reply = whole.slice(-3);
    await using server = await open(tokenizer, "", reply);
    const body = { prompt: text, echo: true, max_tokens: 3, logprobs: 1 };
    const choice = only((await postCompletion(server, body)).choices);
    assert.equal(choice.text, "Once upon a time");
    const offsets = choice.logprobs?.text_offset ?? [];
    assert.equal(choice.text.slice(offsets.at(-3)), "Once upon a time".slice(text.length));
    assert.equal(textOf(await streamCompletion(server, body)), choice.text);
    const alone = only((await postCompletion(server, { ...body, echo: false })).choices);
    assert.equal(alone.text, choice.text.slice(text.length));
  }
});
