import { assert } from "std-testing";
import { z } from "zod";
import {
  cutIds,
  cutMessages,
  cutOf,
  cutPoints,
  messagesFrom,
  tokensToDrop,
} from "../../src/server/truncation.ts";
import { withTestEngine } from "./_engine.ts";
import { BOS_ID, FakeTemplate, FakeTokenizer } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import {
  only,
  post,
  postChat,
  postCompletion,
  postFailing,
  readAs,
  streamChat,
  streamCompletion,
} from "./_wire.ts";

const openRealServer = withTestEngine();
const ids = (length: number) => Array.from({ length }, (_, index) => index);

Deno.test("a cut keeps the last tokens, and never all or none of them", () => {
  assert.deepEqual(cutIds(ids(10), cutOf(4, 100, 1), null), { ids: [6, 7, 8, 9], truncated: 6 });
  assert.deepEqual(cutIds(ids(10), cutOf(10, 100, 1), null), { ids: ids(10), truncated: 0 });
  // The token that begins a text stays, and counts.
  assert.deepEqual(cutIds(ids(10), cutOf(4, 100, 1), 0), { ids: [0, 7, 8, 9], truncated: 6 });
  assert.deepEqual(cutIds(ids(10), cutOf(1, 100, 1), 0), { ids: [9], truncated: 9 });
  for (const contextLength of [1, 2, 3, 7, 8, 64, 1000]) {
    for (const answer of [null, 0, 1, 16, contextLength, 10 * contextLength]) {
      const cut = cutOf(-1, contextLength, answer);
      for (let length = 1; length < 3 * contextLength + 3; length++) {
        const kept = cutIds(ids(length), cut, 0);
        assert.equal(kept.ids.length + kept.truncated, length);
        assert.ok(kept.ids.length >= 1 && kept.ids.length <= Math.max(1, cut.limit));
        assert.equal(kept.truncated > 0, length > cut.limit);
        assert.ok(kept.ids.length >= Math.min(length, Math.ceil(contextLength / 4)));
      }
    }
  }
});

Deno.test("-1 leaves room for the answer, and for the prompt at least a quarter", () => {
  assert.equal(cutOf(-1, 1024, 24).limit, 1000);
  assert.equal(cutOf(-1, 1024, null).limit, 768);
  assert.equal(cutOf(-1, 1024, 5000).limit, 511);
});

Deno.test("the cut of a growing conversation stays where it is for a quarter of the context", () => {
  const cut = cutOf(-1, 1024, 24);
  const drops = [1000, 1001, 1100, 1256, 1257].map((length) => tokensToDrop(length, cut));
  assert.deepEqual(drops, [0, 256, 256, 256, 512]);
});

type Messages = Parameters<typeof cutMessages>[0];
const talk = (...roles: string[]) =>
  roles.map((role, index) => ({ role, content: `m${index}` })) as Messages;

Deno.test("a conversation is cut before a message of the user; what the system said stays", () => {
  const messages = talk("system", "user", "assistant", "user", "developer", "assistant", "user");
  assert.deepEqual(cutPoints(messages), [3, 6]);
  const contents = (at: number) => messagesFrom(messages, at).map(({ content }) => content);
  assert.deepEqual(contents(3), ["m0", "m3", "m4", "m5", "m6"]);
  assert.deepEqual(contents(6), ["m0", "m4", "m6"]);
  assert.deepEqual(cutPoints(talk("system", "user")), []);
  assert.deepEqual(cutPoints(talk("assistant", "user", "user")), [1, 2]);
});

Deno.test("as few messages go as will do", async () => {
  const messages = talk(...Array.from({ length: 40 }, (_, at) => at % 2 ? "assistant" : "user"));
  let renders = 0;
  // Ten tokens a message.
  const render = (kept: Messages) => Promise.resolve((renders++, { ids: ids(10 * kept.length) }));
  for (let limit = 1; limit < 400; limit++) {
    renders = 0;
    const found = await cutMessages(messages, 400, cutOf(limit, 1000, null), render);
    // Pairs of messages go, and the last pair cannot.
    const kept = Math.floor(limit / 20) * 20;
    if (kept === 0) assert.deepEqual(found, { ids: null, least: 20 });
    else {
      // Known where it was rendered, as it was where nothing else was short enough.
      const { least } = found;
      assert.ok(least === 20 || least === null && kept > 20, `${least}`);
      assert.deepEqual(found, { ids: ids(kept), truncated: 400 - kept, least });
    }
    assert.ok(renders <= 4, `${renders} renders`);
  }
  // The step of the cut asks for more than can go; what can is enough.
  const found = await cutMessages(
    talk("user", "user"),
    80,
    { limit: 70, step: 50 },
    (kept) => Promise.resolve({ ids: ids(40 * kept.length) }),
  );
  assert.deepEqual(found, { ids: ids(40), truncated: 40, least: 40 });
});

Deno.test("a conversation of very uneven messages is rendered a few times, and cut to what fits", async () => {
  let seed = 1;
  const random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
  for (let run = 0; run < 300; run++) {
    // Their characters say nothing of their tokens.
    const messages = Array.from({ length: 2 + Math.floor(random() * 500) }, (_, at) => ({
      role: at === 0 || random() < 0.05 ? "system" : random() < 0.5 ? "user" : "assistant",
      content: "x".repeat(Math.floor(random() ** 8 * 5000)),
    })) as Messages;
    const tokens = new Map(messages.map((message) => [message, Math.ceil(random() ** 6 * 900)]));
    const lengthOf = (kept: Messages) => kept.reduce((sum, one) => sum + tokens.get(one)!, 0);
    let renders = 0;
    const render = (kept: Messages) => Promise.resolve((renders++, { ids: ids(lengthOf(kept)) }));
    const whole = lengthOf(messages);
    const limit = Math.max(1, Math.floor(random() * whole));
    const found = await cutMessages(messages, whole, { limit, step: 1 }, render);
    assert.ok(renders <= 7, `${renders} renders`);
    const points = cutPoints(messages);
    const last = points.at(-1);
    const fits = last !== undefined && lengthOf(messagesFrom(messages, last)) <= limit;
    assert.equal(found.ids !== null, fits);
    if (found.ids === null) continue;
    assert.ok(found.ids.length <= limit);
    assert.equal(found.truncated, whole - found.ids.length);
  }
});

Deno.test("characters have their bound also where a prompt is to be cut, and the error says so", async () => {
  await using server = await openFakeServer({ contextLength: 512 });
  const content = "p".repeat(16 * 512 + 1);
  const asked = { truncate_prompt_tokens: -1 };
  for (
    const [path, body] of [
      ["/v1/completions", { prompt: content, ...asked }],
      ["/v1/chat/completions", { messages: [{ role: "user", content }], ...asked }],
    ] as const
  ) {
    const error = await postFailing(server, path, body, 400);
    assert.equal(error.code, "context_length_exceeded");
    assert.match(error.message, /takes at most 8192 characters.*--max-prompt-chars/);
  }
});

Deno.test("POST /v1/completions leaves out the oldest tokens where it is asked to", async () => {
  await using server = await openFakeServer({ contextLength: 64 });
  const prompt = Array.from({ length: 100 }, (_, at) => String.fromCharCode(33 + at % 90)).join("");
  const bytes = [...new TextEncoder().encode(prompt)];
  for (const given of [prompt, bytes]) {
    const answer = await postCompletion(server, { prompt: given, truncate_prompt_tokens: 10 });
    assert.equal(answer.truncated_prompt_tokens, 90);
    assert.equal(answer.usage.prompt_tokens, 10);
    assert.deepEqual(server.engine.requests.at(-1)?.promptIds, bytes.slice(-10));
  }
  // 16 tokens for the answer, and the cut moves by 16.
  const most = await postCompletion(server, { prompt, truncate_prompt_tokens: -1 });
  assert.equal(most.truncated_prompt_tokens, 64);
  const uncut = await postCompletion(server, { prompt: "short", truncate_prompt_tokens: -1 });
  assert.equal(uncut.truncated_prompt_tokens, 0);
  const plain = await postCompletion(server, { prompt: "short" });
  assert.equal("truncated_prompt_tokens" in plain, false);
});

Deno.test("what was left out is said for each prompt of a stream, and for all in the end", async () => {
  await using server = await openFakeServer({ contextLength: 64 });
  const chunks = await streamCompletion(server, {
    prompt: ["p".repeat(30), "q".repeat(12), "r"],
    n: 2,
    truncate_prompt_tokens: 10,
    stream_options: { include_usage: true },
  });
  const told = chunks.flatMap(({ choices: [choice], truncated_prompt_tokens: truncated }) =>
    truncated === undefined ? [] : [[choice?.index ?? "all", truncated]]
  );
  assert.deepEqual(
    told.toSorted(),
    [[0, 20], [1, 20], [2, 2], [3, 2], [4, 0], [5, 0], ["all", 22]],
  );
});

Deno.test("a beginning-of-text token that was added stays in front", async () => {
  await using server = await openFakeServer({ contextLength: 64, addsBos: true });
  const body = { prompt: "abcdef", truncate_prompt_tokens: 3, echo: true, max_tokens: 1 };
  const answer = await postCompletion(server, body);
  assert.deepEqual(only(server.engine.requests).promptIds, [BOS_ID, 101, 102]);
  assert.equal(answer.truncated_prompt_tokens, 4);
  assert.equal(only(answer.choices).text.slice(0, 2), "ef");
});

Deno.test("a prompt that is still too long after the cut is refused as any other", async () => {
  await using server = await openFakeServer({ contextLength: 64 });
  const body = { prompt: "p".repeat(100), truncate_prompt_tokens: 80 };
  const error = await postFailing(server, "/v1/completions", body, 400);
  assert.equal(error.code, "context_length_exceeded");
  assert.equal(error.n_prompt_tokens, 80);
  assert.match(error.message, /the prompt has 80 tokens after 20 were left out\./);
});

Deno.test("POST /v1/chat/completions leaves out the oldest messages", async () => {
  await using server = await openFakeServer({ contextLength: 128 });
  const template = new FakeTemplate(new FakeTokenizer());
  const messages = [
    { role: "system", content: "be brief" },
    ...Array.from({ length: 8 }, (_, at) => ({
      role: at % 2 ? "assistant" as const : "user" as const,
      content: `message ${at}`,
    })),
    { role: "user", content: "the last one" },
  ] as const;
  const refused = await postFailing(server, "/v1/chat/completions", { messages }, 400);
  assert.match(refused.message, /`truncate_prompt_tokens`: -1/);

  const body = { messages, max_tokens: 20, truncate_prompt_tokens: -1 };
  const answer = await postChat(server, body);
  const { promptIds } = only(server.engine.requests);
  const whole = await template.render(messages);
  // The system's and whole messages, the first of them the user's.
  const kept = [messages[0], ...messages.slice(7)];
  assert.deepEqual(promptIds, (await template.render(kept)).ids);
  assert.ok(promptIds.length <= 128 - 20);
  assert.equal(answer.truncated_prompt_tokens, whole.ids.length - promptIds.length);

  const chunks = await streamChat(server, body);
  assert.equal(chunks.at(-1)?.truncated_prompt_tokens, answer.truncated_prompt_tokens);

  const narrow = { messages, truncate_prompt_tokens: 20 };
  const error = await postFailing(server, "/v1/chat/completions", narrow, 400);
  assert.equal(error.param, "truncate_prompt_tokens");
  assert.equal(error.n_prompt_tokens, whole.ids.length);
  const least = (await template.render([messages[0], messages.at(-1)!])).ids.length;
  assert.match(error.message, new RegExp(`leaves it at most 20, .* have ${least}\\.`));
});

Deno.test("POST /apply-template leaves out what a chat does", async () => {
  await using server = await openFakeServer({ contextLength: 128 });
  const prompt = z.strictObject({
    prompt: z.string(),
    truncated_prompt_tokens: z.number().optional(),
  });
  const messages = [
    { role: "system", content: "be brief" },
    ...Array.from({ length: 9 }, (_, at) => ({
      role: at % 2 ? "assistant" : "user",
      content: `message ${at}`,
    })),
  ];
  const template = async (body: object) =>
    await readAs(prompt, await post(server, "/apply-template", body));
  for (const asked of [{ max_tokens: 20 }, { max_completion_tokens: 60 }, {}]) {
    const body = { messages, truncate_prompt_tokens: -1, ...asked };
    const shown = await template(body);
    const answer = await postChat(server, body);
    const kept = messages.filter(({ content }) => shown.prompt.includes(content)) as Messages;
    const { text, ids } = await new FakeTemplate(new FakeTokenizer()).render(kept);
    assert.ok(answer.truncated_prompt_tokens! > 0);
    assert.equal(shown.truncated_prompt_tokens, answer.truncated_prompt_tokens);
    assert.deepEqual(server.engine.requests.at(-1)?.promptIds, ids);
    assert.equal(shown.prompt, text);
  }
  const whole = await template({ messages });
  assert.equal(whole.truncated_prompt_tokens, undefined);
  assert.ok(whole.prompt.includes("message 0"));
  const uncut = await template({ messages, truncate_prompt_tokens: 500 });
  assert.deepEqual(uncut, { ...whole, truncated_prompt_tokens: 0 });
  const narrow = { messages, truncate_prompt_tokens: 20 };
  const error = await postFailing(server, "/apply-template", narrow, 400);
  assert.equal(error.param, "truncate_prompt_tokens");
  // What stays does not fit the context, which does not bound it here.
  const large = { messages: [...messages, { role: "user", content: "u".repeat(130) }] };
  const number = (await new FakeTemplate(new FakeTokenizer()).render(
    [messages[0], large.messages.at(-1)] as Messages,
  )).ids.length;
  assert.ok(number > 128);
  for (const asked of [-1, 100]) {
    const body = { ...large, truncate_prompt_tokens: asked };
    const { message } = await postFailing(server, "/apply-template", body, 400);
    assert.match(message, new RegExp(`let .truncate_prompt_tokens. be ${number} or more\\.$`));
    const chat = await postFailing(server, "/v1/chat/completions", body, 400);
    assert.match(chat.message, /Shorten them, or start the server with a larger --context/);
  }
  const shown = await template({ ...large, truncate_prompt_tokens: number });
  assert.ok(shown.truncated_prompt_tokens! > 0);
});

Deno.test("a conversation that outgrows the context is found in the prefix cache all the same", async () => {
  await using server = await openRealServer();
  const messages: { role: string; content: string }[] = [];
  const turns: { readonly cached: number; readonly prompt: number; readonly cut: number }[] = [];
  for (let turn = 0; turn < 40; turn++) {
    messages.push({ role: "user", content: `More of ${turn}.` });
    const answer = await postChat(server, {
      messages,
      max_tokens: 8,
      truncate_prompt_tokens: -1,
      temperature: 0,
    });
    messages.push({ role: "assistant", content: only(answer.choices).message.content });
    turns.push({
      cached: answer.usage.prompt_tokens_details.cached_tokens,
      prompt: answer.usage.prompt_tokens,
      cut: answer.truncated_prompt_tokens!,
    });
  }
  const cut = turns.filter(({ cut }) => cut > 0);
  assert.ok(cut.length >= 8, JSON.stringify(turns));
  // The cut stands still in some turns, and these find what the turn before prefilled.
  const still = turns.filter(({ cut }, at) => cut > 0 && cut === turns[at - 1]?.cut);
  assert.ok(still.length >= cut.length * 0.6, JSON.stringify(turns));
  for (const { cached, prompt } of still) assert.ok(cached >= prompt / 2, JSON.stringify(turns));
});
