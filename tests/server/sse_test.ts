/** The body of a stream by itself: comments, slow readers, readers that stop. */
import { assert } from "std-testing";
import { OPEN_PACE, paceOf, pingMs } from "../../src/server/pace.ts";
import { eventStream } from "../../src/server/sse.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Messages with a pause before each, and how many were made. */
function source(waitsMs: readonly number[]) {
  const made = { count: 0, left: false };
  async function* run() {
    try {
      for (const [index, ms] of waitsMs.entries()) {
        if (ms > 0) await pause(ms);
        made.count++;
        yield `m${index}`;
      }
    } finally {
      made.left = true;
    }
  }
  return { messages: run(), made };
}

Deno.test("eventStream() sends comments while no message comes, and none otherwise", async () => {
  const { messages } = source([0, 230, 0]);
  const pace = { ...OPEN_PACE, pingMs: 50 };
  const body = await new Response(eventStream(messages, { onCancel() {} }, pace)).text();
  assert.match(body, /^data: m0\n\n(:\n\n){2,4}data: m1\n\ndata: m2\n\n$/);
});

Deno.test("eventStream() keeps at most one comment for a client that takes none", async () => {
  const { messages } = source([250]);
  const pace = { ...OPEN_PACE, pingMs: 50 };
  const stream = eventStream(messages, { onCancel() {} }, pace);
  await pause(300);
  assert.equal(await new Response(stream).text(), ":\n\ndata: m0\n\n");
});

Deno.test("eventStream() makes no message before the one before it was taken", async () => {
  const { messages, made } = source(new Array(50).fill(0));
  const stream = eventStream(messages, { onCancel() {} });
  await pause(20);
  assert.equal(made.count, 1);
  await stream.cancel();
  assert.ok(made.left);
});

Deno.test("eventStream() tells when a client becomes slow and when it reads again", async () => {
  const { messages } = source([0, 0, 0]);
  const seen: boolean[] = [];
  const hooks = { onCancel() {}, onSlow: (isSlow: boolean) => void seen.push(isSlow) };
  const stream = eventStream(messages, hooks, { ...OPEN_PACE, slowMs: 40 });
  await pause(120);
  assert.deepEqual(seen, [true]);
  await new Response(stream).text();
  assert.deepEqual(seen, [true, false]);
});

Deno.test("eventStream() gives up a client that stops reading, and leaves it an explanation", async () => {
  const { messages, made } = source(new Array(50).fill(0));
  let stalled = 0;
  const stream = eventStream(messages, {
    onCancel() {},
    onStalled() {
      stalled++;
      return ["why", "[DONE]"];
    },
  }, { ...OPEN_PACE, slowMs: 20, stallMs: 60 });
  await pause(150);
  assert.equal(stalled, 1);
  assert.ok(made.left);
  assert.equal(made.count, 1);
  assert.equal(await new Response(stream).text(), "data: m0\n\ndata: why\n\ndata: [DONE]\n\n");
});

Deno.test("eventStream() leaves no timer behind when its client goes", async () => {
  const { messages } = source([0, 0]);
  let stalled = 0;
  let gone = 0;
  const hooks = { onCancel: () => void gone++, onStalled: () => (stalled++, []) };
  const stream = eventStream(messages, hooks, { pingMs: 10, slowMs: 10, stallMs: 30 });
  await pause(5);
  await stream.cancel();
  await pause(50);
  assert.deepEqual([gone, stalled], [1, 0]);
});

Deno.test("eventStream() fails with its messages, and leaves no timer behind", async () => {
  const messages = (async function* () {
    await pause(20);
    yield "m0";
    throw new Error("broken");
  })();
  const pace = { pingMs: 50, slowMs: 10, stallMs: 30 };
  await assert.rejects(new Response(eventStream(messages, { onCancel() {} }, pace)).text());
  await pause(120);
});

Deno.test("a request names its own interval of comments; 0 and less are none", () => {
  const pace = { pingMs: 15_000, slowMs: 1, stallMs: 2 };
  assert.deepEqual(paceOf(pace, undefined), pace);
  assert.deepEqual(paceOf(pace, 3), { ...pace, pingMs: 3000 });
  assert.deepEqual(paceOf(pace, -1), { ...pace, pingMs: null });
  assert.equal(pingMs(0), null);
  assert.equal(pingMs(1e-9), 50);
});
