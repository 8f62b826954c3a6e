import { assert, fc } from "std-testing";
import { Admission } from "../../src/server/admission/admission.ts";
import { BodyBudget } from "../../src/server/admission/body_budget.ts";
import { RequestError } from "../../src/server/errors.ts";
import { openFakeServer } from "./_server.ts";
import { eventData, eventually, failure, post, postCompletion, postFailing } from "./_wire.ts";

function refusedBy(attempt: () => unknown): RequestError {
  try {
    attempt();
  } catch (thrown) {
    if (thrown instanceof RequestError) return thrown;
    throw thrown;
  }
  throw new Error("was let in");
}

Deno.test("Admission takes on what runs and what may wait, all of a request or nothing", () => {
  const admission = new Admission(2);
  const leave = admission.admit(4, 4);
  assert.ok(admission.isOpen(4));
  assert.equal(refusedBy(() => admission.admit(3, 4)).status, 429);
  assert.equal(admission.numTaken, 4);
  admission.admit(2, 4);
  assert.ok(!admission.isOpen(4));
  const refusal = refusedBy(() => admission.admit(1, 4));
  assert.equal(refusal.body.error.code, "queue_full");
  assert.equal(refusal.headers["retry-after"], "1");
  leave();
  leave();
  assert.equal(admission.numTaken, 2);
  assert.ok(admission.isOpen(4));
});

Deno.test("Admission refuses for good what it could never take on", () => {
  const refusal = refusedBy(() => new Admission(2).admit(7, 4));
  assert.equal(refusal.status, 400);
  assert.equal(refusal.headers["x-should-retry"], "false");
  assert.match(refusal.message, /has 7 prompts.*at most 6/);
});

Deno.test("Admission asks to come again when about one of those that run has ended", () => {
  let now = 0;
  const admission = new Admission(0, () => now);
  const retryAfter = () => refusedBy(() => admission.admit(1, 2)).headers["retry-after"];
  const running = [admission.admit(1, 2), admission.admit(1, 2)];
  assert.equal(retryAfter(), "1");
  now = 12_000;
  running[0]?.();
  admission.admit(1, 2);
  assert.equal(retryAfter(), "6");
  now = 10_000_000;
  running[1]?.();
  admission.admit(1, 2);
  assert.equal(retryAfter(), "30");
});

Deno.test("Admission never has more than it may, and nothing when all have left", () => {
  const action = fc.oneof(
    fc.record({ admit: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ leave: fc.nat(20) }),
  );
  fc.assert(
    fc.property(fc.nat(5), fc.array(action), (maxQueue, actions) => {
      const admission = new Admission(maxQueue);
      const leaving: (() => void)[] = [];
      for (const act of actions) {
        if ("leave" in act) leaving[act.leave]?.();
        else {
          try {
            leaving.push(admission.admit(act.admit, 3));
          } catch {
            // Was refused.
          }
        }
        assert.ok(admission.numTaken >= 0 && admission.numTaken <= 3 + maxQueue);
      }
      for (const leave of leaving) leave();
      assert.equal(admission.numTaken, 0);
    }),
    { seed: 6 },
  );
});

Deno.test("BodyBudget bounds what is being received together", () => {
  const budget = new BodyBudget(10);
  budget.take(6);
  assert.equal(refusedBy(() => budget.take(5)).status, 429);
  budget.take(4);
  budget.give(10);
  assert.equal(budget.usedBytes, 0);
});

Deno.test("requests over the queue get 429, streamed or not, before their body is read", async () => {
  await using server = await openFakeServer({
    maxSequences: 1,
    stepMs: 20,
    contextLength: 4096,
    app: { limits: { maxQueue: 1 } },
  });
  const client = new AbortController();
  const long = { prompt: "x", max_tokens: 2000, ignore_eos: true, stream: true };
  const open = [1, 2].map(() => post(server, "/v1/completions", long, { signal: client.signal }));
  const streams = await Promise.all(open);
  for (const stream of [false, true]) {
    for (const path of ["/v1/completions", "/v1/chat/completions"]) {
      // A body that would be refused for itself, if it were read.
      const error = await postFailing(server, path, { stream, prompt: 5 }, 429);
      assert.equal(error.code, "queue_full");
      assert.equal(error.type, "rate_limit_error");
    }
  }
  // Those that have already been let in are not touched, and what generates nothing goes on.
  assert.equal((await post(server, "/tokenize", { content: "x" })).status, 200);
  client.abort();
  await Promise.allSettled(streams.map((stream) => stream.text()));
  await eventually(async () => (await server.engine.stats()).runningSequences === 0, 1000);
  await postCompletion(server, { prompt: "x", max_tokens: 1 });
});

Deno.test("a request of more answers than can be taken at once is 400, as is n over its bound", async () => {
  await using server = await openFakeServer({
    maxSequences: 2,
    app: { limits: { maxQueue: 3, maxAnswers: 3 } },
  });
  const body = { prompt: ["a", "b"], max_tokens: 1 };
  assert.equal((await postCompletion(server, { ...body, n: 2 })).choices.length, 4);
  const many = await postFailing(server, "/v1/completions", { ...body, n: 3 }, 400);
  assert.equal(many.code, "too_many_answers");
  assert.equal(many.param, "prompt");
  assert.match(many.message, /has 6 answers \(2 prompts, `n` is 3\).*takes at most 5 at once/);
  // Nobody said `n`: it is the prompts that are too many.
  const prompts = { prompt: [..."abcdef"], max_tokens: 1 };
  const several = await postFailing(server, "/v1/completions", prompts, 400);
  assert.equal(several.param, "prompt");
  assert.match(several.message, /^The request has 6 prompts, and this server takes at most 5/);
  const n = await postFailing(server, "/v1/completions", { prompt: "a", n: 4 }, 400);
  assert.match(n.message, /from 1 to 3, but is 4/);
  assert.equal(n.param, "n");
});

Deno.test("a conversation of more answers than places names n", async () => {
  await using server = await openFakeServer({
    maxSequences: 1,
    app: { limits: { maxQueue: 1, maxAnswers: 16 } },
  });
  const body = { messages: [{ role: "user", content: "x" }], max_tokens: 1, n: 3 };
  const error = await postFailing(server, "/v1/chat/completions", body, 400);
  assert.equal(error.param, "n");
  assert.match(error.message, /has 3 answers \(`n`\), and this server takes at most 2 at once/);
});

Deno.test("a prompt over --max-prompt-chars is 400, as text and as a conversation", async () => {
  await using server = await openFakeServer({ app: { limits: { maxPromptCharacters: 20 } } });
  const prompt = "p".repeat(21);
  const messages = [{ role: "user", content: prompt }];
  for (
    const [path, body] of [
      ["/v1/completions", { prompt }],
      ["/v1/chat/completions", { messages }],
      ["/apply-template", { messages }],
    ] as const
  ) {
    const error = await postFailing(server, path, body, 400);
    assert.match(error.message, /has 21 characters.*at most 20/);
  }
  await postCompletion(server, { prompt: prompt.slice(1), max_tokens: 1 });
});

Deno.test("a sequence that fails gives its place back", async () => {
  await using server = await openFakeServer({
    maxSequences: 1,
    failAt: () => 2,
    app: { limits: { maxQueue: 0 } },
  });
  for (let nth = 0; nth < 3; nth++) {
    await postFailing(server, "/v1/completions", { prompt: "x" }, 500);
    const stream = await post(server, "/v1/completions", { prompt: "x", stream: true });
    const events = eventData(await stream.text());
    assert.equal(failure.parse(JSON.parse(events.at(-2) ?? "")).error.code, "internal");
  }
});
