import { assert } from "std-testing";
import { withTestEngine } from "./_engine.ts";
import { openFakeServer, openServer } from "./_server.ts";
import { post, postFailing } from "./_wire.ts";
import { EncodeError } from "../../src/tokenizer/background_encoder.ts";

const openTestServer = withTestEngine();

/** Most that making and reading the body of that many ids takes, on a machine with other work. */
const HELD_UP_MS = 500;
/** Most milliseconds that 99 of 100 probes may take. */
const PROBE_MS = 50;

/** Milliseconds within which 99 of 100 probes are answered. */
async function slowestOf99(url: string): Promise<number> {
  const times: number[] = [];
  for (let nth = 0; nth < 200; nth++) {
    const started = performance.now();
    const response = await fetch(`${url}/health`);
    assert.equal(await response.text(), '{"status":"ok"}');
    times.push(performance.now() - started);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return times.toSorted((one, other) => one - other)[197] ?? Infinity;
}

Deno.test("the health answers at once while long texts are tokenized and prompts prefilled", async () => {
  await using server = await openTestServer();
  const done = new AbortController();
  const content = "aB ".repeat(33_000);
  const tokenizing = (async () => {
    while (!done.signal.aborted) {
      const response = await post(server, "/tokenize", { content });
      assert.equal(response.status, 200);
      await response.body?.cancel();
    }
  })();
  const prefilling = (async () => {
    while (!done.signal.aborted) {
      const body = { prompt: "p".repeat(500), max_tokens: 1, cache_prompt: false };
      const response = await post(server, "/v1/completions", body);
      await response.body?.cancel();
    }
  })();
  // A loop that is held up is held up each time; a machine with other work is not.
  const rounds: number[] = [];
  while (rounds.length < 3 && !rounds.some((p99) => p99 <= PROBE_MS)) {
    rounds.push(await slowestOf99(server.url));
  }
  done.abort();
  await Promise.all([tokenizing, prefilling]);
  assert.ok(Math.min(...rounds) <= PROBE_MS, `p99 of each round: ${rounds.join(", ")} ms`);
});

Deno.test("the health answers while very many ids are made text", async () => {
  await using server = await openTestServer();
  // As text these take seconds where they are decoded one by one.
  const tokens = Array.from({ length: 300_000 }, (_, id) => 3 + id % 90);
  let longest = 0;
  let last = performance.now();
  // What holds up the loop holds up this timer.
  const timer = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }, 5);
  try {
    const response = await post(server, "/detokenize", { tokens });
    const { content } = await response.json();
    assert.ok(content.length > 200_000);
  } finally {
    clearInterval(timer);
  }
  assert.ok(longest < HELD_UP_MS, `held up for ${Math.round(longest)} ms`);
});

Deno.test("a text that takes too long to tokenize is 400, one that has to wait too long 429", async () => {
  await using plain = await openTestServer();
  for (const [code, status] of [["timeout", 400], ["busy", 429], ["failed", 500]] as const) {
    const encoder = {
      encode: () => Promise.reject(new EncodeError(code, "it is so, in /home/me/x")),
      close() {},
    };
    await using server = await openServer({ ...plain.model, encoder }, {}, true);
    for (
      const [path, body] of [["/v1/completions", { prompt: "x" }], ["/tokenize", { content: "x" }]]
    ) {
      const error = await postFailing(server, path as string, body, status);
      assert.equal(error.code, `tokenize_${code}`);
      if (code === "failed") assert.ok(!error.message.includes("home"));
    }
  }
});

Deno.test("many ids are turned into text in parts, and more than any context has are 400", async () => {
  await using server = await openFakeServer();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let numTurns = 0;
  let numTurnsAtEnd = 0;
  const tick = () => {
    numTurns++;
    timer = setTimeout(tick, 0);
  };
  server.tokenizer.stream = () => ({
    push: (id) => String.fromCharCode(id),
    pushAll(ids) {
      if (timer === undefined) tick();
      return String.fromCharCode(...ids);
    },
    end() {
      numTurnsAtEnd = numTurns;
      return "";
    },
  });
  const tokens = Array.from({ length: 300_000 }, (_, i) => 97 + i % 26);
  const response = await post(server, "/detokenize", { tokens });
  const { content } = await response.json();
  clearTimeout(timer);
  assert.ok(numTurnsAtEnd >= 10, `others had ${numTurnsAtEnd} turns`);
  assert.equal(
    content,
    String.fromCharCode(...tokens.slice(0, 26)).repeat(11_539).slice(0, 300_000),
  );
  const many = new Array<number>(1024 * 1024 + 1).fill(97);
  await postFailing(server, "/detokenize", { tokens: many }, 400);
});
