/** What users of the npm clients see when a server refuses, and what is left when they leave. */
import { assert } from "std-testing";
import { CONTEXT_LENGTH, MAX_SEQUENCES, withTestEngine } from "./_engine.ts";
import { NPM_CLIENTS, statusOf } from "./_npm_clients.ts";
import { eventually, post } from "./_wire.ts";

const openTestServer = withTestEngine();
/** Least share of the time in `Retry-After`: a timer may fire a moment early. */
const WAITED = 0.95;

for (const client of NPM_CLIENTS) {
  const both = async (asked: Parameters<typeof client.ask>[0]) => [
    await client.ask(asked).then(() => undefined, (error: Error) => error),
    await Array.fromAsync(client.stream(asked)).then(() => undefined, (error: Error) => error),
  ];

  Deno.test(`${client.name}: streamed text is that of the whole answer`, async () => {
    await using server = await openTestServer();
    const asked = { url: server.url, maxTokens: 24 };
    const pieces = await Array.fromAsync(client.stream(asked));
    assert.ok(pieces.length > 1);
    assert.equal(pieces.join(""), await client.ask(asked));
  });

  Deno.test(`${client.name}: a bad value and a prompt that is too long are 400, asked once`, async () => {
    await using server = await openTestServer();
    const cases = [
      [{ temperature: 3 }, /temperature/],
      [{ content: "x".repeat(CONTEXT_LENGTH) }, /maximum context length is 512 tokens/],
    ] as const;
    for (const [more, message] of cases) {
      let times = 0;
      const counting: typeof fetch = (...args) => {
        times++;
        return fetch(...args);
      };
      for (
        const error of await both({ url: server.url, ...more, maxRetries: 2, fetch: counting })
      ) {
        assert.equal(statusOf(error), 400);
        assert.match(error!.message, message);
      }
      assert.equal(times, 2);
    }
  });

  Deno.test(`${client.name}: a wrong key is 401, the right one is taken`, async () => {
    const guard = { apiKeys: ["right"], allowedHosts: null, corsOrigins: [] };
    await using server = await openTestServer({ guard });
    for (const error of await both({ url: server.url, apiKey: "wrong" })) {
      assert.equal(statusOf(error), 401);
    }
    assert.deepEqual(await both({ url: server.url, apiKey: "right" }), [undefined, undefined]);
  });

  Deno.test(`${client.name}: 429 of a full queue is asked again, and answered then`, async () => {
    await using server = await openTestServer({ limits: { maxQueue: 1 } });
    const hogs = new AbortController();
    const body = { prompt: "goes on", max_tokens: 450, ignore_eos: true, stream: true };
    const streams = await Promise.all(
      Array.from(
        { length: MAX_SEQUENCES + 1 },
        () => post(server, "/v1/completions", body, { signal: hogs.signal }),
      ),
    );
    const statuses: number[] = [];
    let refusedAt = 0;
    let seconds = 0;
    let waitedMs = 0;
    const watching: typeof fetch = async (...args) => {
      if (statuses.length > 0) waitedMs = performance.now() - refusedAt;
      const response = await fetch(...args);
      statuses.push(response.status);
      if (response.status === 429) {
        refusedAt = performance.now();
        seconds = Number(response.headers.get("retry-after"));
        // The queue empties while the client waits.
        hogs.abort();
      }
      return response;
    };
    const asked = { url: server.url, maxRetries: 2, fetch: watching };
    assert.ok((await Array.fromAsync(client.stream(asked))).length > 0);

    assert.deepEqual(statuses, [429, 200]);
    assert.ok(seconds >= 1);
    // LangChain waits by a rule of its own.
    if (!client.name.includes("langchain")) {
      assert.ok(waitedMs >= WAITED * seconds * 1000, `${waitedMs} ms, told ${seconds} s`);
    }
    await Promise.allSettled(streams.map((stream) => stream.text()));
  });

  Deno.test(`check 2: ${client.name}: an error in mid-stream is thrown with its message`, async () => {
    await using server = await openTestServer({ limits: { requestTimeoutMs: 150 } });
    const pieces: string[] = [];
    const reading = (async () => {
      const asked = { url: server.url, maxTokens: 480, ignoreEos: true };
      for await (const piece of client.stream(asked)) pieces.push(piece);
    })();
    const error = await reading.then(() => assert.fail("it ended well"), (thrown) => thrown);
    // One of them passes the server's words on as they came.
    const message = error instanceof Error ? error.message : JSON.stringify(error);
    assert.match(message, /was not complete after 0\.15 s/);
    assert.ok(pieces.length > 0);
    assert.deepEqual(server.logged, []);
  });

  Deno.test(`${client.name}: an abort in a stream frees its sequence within 1 s`, async () => {
    await using server = await openTestServer();
    const leaving = new AbortController();
    const asked = { url: server.url, maxTokens: 400, ignoreEos: true, signal: leaving.signal };
    let seen = 0;
    let abortedAt = 0;
    try {
      for await (const _ of client.stream(asked)) {
        if (++seen !== 3) continue;
        abortedAt = performance.now();
        leaving.abort();
      }
    } catch {
      // Some throw, some end.
    }
    assert.ok(seen >= 3 && seen < 300, `${seen} pieces`);
    await eventually(async () => {
      const { runningSequences, pagesInUse } = await server.model.engine.stats();
      return runningSequences + pagesInUse === 0;
    }, 1000 - (performance.now() - abortedAt));
    assert.deepEqual(server.logged, []);
  });
}
