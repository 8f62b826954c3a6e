import { assert } from "std-testing";
import type { ChatBody } from "../../src/server/schemas.ts";
import { EncodeError } from "../../src/tokenizer/background_encoder.ts";
import { TemplateError } from "../../src/tokenizer/types.ts";
import { FakeTemplate, FakeTokenizer } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import { post, postChat, postFailing } from "./_wire.ts";

/** Renders as the fake one until its queue is full, and counts. */
class CountingTemplate extends FakeTemplate {
  renders = 0;
  /** What renderings fail with after so many. */
  failure: { readonly after: number; readonly error: Error } | null = null;

  override render(...given: Parameters<FakeTemplate["render"]>) {
    if (this.failure !== null && this.renders >= this.failure.after) {
      return Promise.reject(this.failure.error);
    }
    this.renders++;
    return super.render(...given);
  }
}

Deno.test("a chat that can never fit is told so also where the advice cannot be found out", async () => {
  const template = new CountingTemplate(new FakeTokenizer());
  await using server = await openFakeServer({ contextLength: 128, template });
  const chat = (length: number) => ({
    messages: [
      { role: "user", content: "u".repeat(length) },
      { role: "assistant", content: "a" },
      { role: "user", content: "u" },
    ],
  });
  for (
    const error of [
      new EncodeError("busy", "many wait"),
      new EncodeError("timeout", "too slow"),
      new TemplateError("unavailable", "nobody renders"),
      new TemplateError("raised", "roles must alternate"),
    ]
  ) {
    // Known by its characters, before anything is rendered; and only by rendering it.
    for (const [length, after] of [[1500, 0], [200, 1]] as const) {
      template.renders = 0;
      template.failure = { after, error };
      const refused = await postFailing(server, "/v1/chat/completions", chat(length), 400);
      assert.equal(refused.code, "context_length_exceeded");
      assert.match(refused.message, /tokens\. Shorten the prompt, or start the server/);
      assert.equal(template.renders, after);
    }
  }
  // What could fit is to come again.
  template.failure = { after: 0, error: new EncodeError("busy", "many wait") };
  await postFailing(server, "/v1/chat/completions", chat(20), 429);
});

Deno.test("a chat that is cut is rendered eight times at most, also where it is refused", async () => {
  const template = new CountingTemplate(new FakeTokenizer());
  await using server = await openFakeServer({ contextLength: 128, template });
  const empty = { role: "user", content: "" };
  let most = 0;
  // Of a few hundred messages without text the last one alone leaves no room beside it.
  for (const numMessages of [3, 40, 290]) {
    for (const characters of [36, 37, 38]) {
      const last = { role: "user", content: "\u5b57".repeat(characters) };
      const messages = [...Array.from({ length: numMessages }, () => empty), last];
      for (const asked of [-1, 100, 128, 200, 500]) {
        template.renders = 0;
        await (await post(server, "/v1/chat/completions", {
          messages,
          truncate_prompt_tokens: asked,
        })).body?.cancel();
        most = Math.max(most, template.renders);
      }
    }
  }
  assert.equal(most, 8);
});

Deno.test("an answer of no tokens leaves a chat the whole context, and advice says so", async () => {
  await using server = await openFakeServer({ contextLength: 128 });
  const user = (content: string) => ({ role: "user", content });
  const around = (await new FakeTemplate(new FakeTokenizer()).render(
    [user("")] as ChatBody["messages"],
  )).ids.length;
  const path = "/v1/chat/completions";
  for (
    const [maxTokens, stays, helps] of [[0, 128, true], [0, 129, false], [1, 127, true], [
      1,
      128,
      false,
    ]] as const
  ) {
    const messages = [user("u".repeat(150)), user("u".repeat(stays - around))];
    const body = { messages, max_tokens: maxTokens };
    const { message } = await postFailing(server, path, body, 400);
    const { message: cut } = await postFailing(server, path, {
      ...body,
      truncate_prompt_tokens: 50,
    }, 400);
    if (helps) {
      assert.match(message, /`truncate_prompt_tokens`: -1\)/);
      assert.match(cut, new RegExp(`be ${stays} or more\\.$`));
      for (const asked of [-1, stays]) {
        const answer = await postChat(server, { ...body, truncate_prompt_tokens: asked });
        assert.equal(answer.usage.prompt_tokens, stays);
      }
    } else {
      assert.match(message, /does not help/);
      assert.match(cut, /Shorten them, or start the server with a larger --context/);
    }
  }
});

Deno.test("a conversation that is too long is told what helps, and that does", async () => {
  await using server = await openFakeServer({ contextLength: 128 });
  const user = (length: number) => ({ role: "user", content: "u".repeat(length) });
  const assistant = (length: number) => ({ role: "assistant", content: "a".repeat(length) });
  const refusal = async (body: object) => {
    const error = await postFailing(server, "/v1/chat/completions", body, 400);
    assert.equal(error.code, "context_length_exceeded");
    assert.equal(error.param, "messages");
    assert.ok(error.message.includes("larger --context"), error.message);
    return error.message;
  };
  /** Fields that a refusal names, as they are to be set. */
  const advice = (message: string) => {
    const [, number] = /`truncate_prompt_tokens`: (-?\d+)\)/.exec(message) ?? [];
    return number === undefined ? null : { truncate_prompt_tokens: Number(number) };
  };

  const short = { messages: [user(90), assistant(20), user(20)], max_tokens: 8 };
  const early = advice(await refusal(short));
  assert.deepEqual(early, { truncate_prompt_tokens: -1 });
  await postChat(server, { ...short, ...early });

  // -1 leaves too little beside the answer, but a number of its own has room.
  const long = { messages: [user(90), assistant(20), user(70)], max_tokens: 90 };
  const own = advice(await refusal(long));
  assert.ok(own!.truncate_prompt_tokens > 70);
  const answer = await postChat(server, { ...long, ...own });
  assert.equal(answer.usage.prompt_tokens, own!.truncate_prompt_tokens);
  const least = { ...long, truncate_prompt_tokens: -1 };
  const tight = await postFailing(server, "/v1/chat/completions", least, 400);
  const number = own!.truncate_prompt_tokens;
  assert.match(tight.message, new RegExp(`have ${number}\\. .* be ${number} or more\\.$`));

  // Known exactly, and only by its characters; with one message alone, and with others.
  for (const length of [125, 129, 1500]) {
    for (const before of [[], [user(3), assistant(3)]]) {
      const message = await refusal({ messages: [...before, user(length)] });
      assert.match(message, /does not help: those that always stay .* Shorten them, or start/);
      assert.equal(advice(message), null);
    }
  }
  const kept = { messages: [user(3), assistant(3), user(130)], truncate_prompt_tokens: -1 };
  const never = await postFailing(server, "/v1/chat/completions", kept, 400);
  assert.match(never.message, /Shorten them, or start the server with a larger --context/);
  // The number that was asked for is above the context.
  const above = { messages: [user(90), assistant(20), user(100)], truncate_prompt_tokens: 500 };
  const cut = await refusal(above);
  assert.deepEqual(advice(cut), { truncate_prompt_tokens: 117 });
  assert.match(cut, /the prompt has \d+ tokens\. /);
  // Some go, and what is left is too long all the same.
  const between = [user(90), assistant(20), user(10), assistant(3), user(100)];
  const some = await refusal({ messages: between, truncate_prompt_tokens: 150 });
  assert.deepEqual(advice(some), { truncate_prompt_tokens: 117 });
  assert.match(some, /the prompt has 147 tokens after 127 were left out\. /);

  // A cut would be refused too: for the characters of all, or by the template.
  for (
    const messages of [
      [user(9000), assistant(3), user(3)],
      [{ role: "system", content: "RAISE" }, user(1500), assistant(3), user(3)],
    ]
  ) {
    const message = await refusal({ messages });
    assert.match(message, /tokens\. Shorten the prompt, or start the server/);
  }
  const text = await postFailing(server, "/v1/completions", { prompt: "p".repeat(9000) }, 400);
  assert.equal(advice(text.message), null);
});
