/** The whole program under signals: it drains, and it comes back after it was killed. */
import { assert } from "std-testing";
import {
  completionChunk,
  eventData,
  eventually,
  failure,
  only,
  post,
  postCompletion,
  postFailing,
  readChunks,
} from "../server/_wire.ts";
import { HUGE, openDeafClient } from "../server/_raw.ts";
import { MODEL, start, waitFor } from "./_process.ts";

/** A start takes a second or two; a machine with other work takes longer. */
const START_MS = 60_000;
/** The supervisor waits so long before it starts the next process. */
const FIRST_PAUSE_MS = 1000;
/** What two starts of one run may differ by; the first one has the supervisor's own start too. */
const START_RATIO = 2;
const START_SLACK_MS = 500;
const SERVE = ["serve", "--model", MODEL, "--context", "512"];

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** A stream whose first chunk has come, and the rest of its text. */
async function openStream(url: string, body: object) {
  const asked = { prompt: [1, 2, 3], temperature: 0, ignore_eos: true, stream: true, ...body };
  const response = await post({ url }, "/v1/completions", asked);
  const [head, rest] = response.body?.tee() ?? [];
  await head?.getReader().read();
  return new Response(rest, { headers: response.headers });
}

async function isReady(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/ready`);
    await response.body?.cancel();
    return response.status === 200;
  } catch {
    return false;
  }
}

Deno.test("check 6: SIGTERM while a stream runs: it completes, new requests are refused, exit code 0", async () => {
  const server = start([...SERVE, "--port", "0"]);
  const stderr = new Response(server.stderr).text();
  const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
  const stream = await openStream(url, { max_tokens: 450 });
  server.kill("SIGTERM");
  await eventually(async () => !await isReady(url), 2000);
  const error = await postFailing({ url }, "/v1/completions", { prompt: [1] }, 503);
  assert.equal(error.code, "shutting_down");
  const chunks = await readChunks(completionChunk, stream);
  assert.equal(only(chunks.at(-1)?.choices ?? []).finish_reason, "length");
  assert.equal(chunks.at(-1)?.timings?.predicted_n, 450);
  assert.equal((await server.status).code, 0, await stderr);
  assert.match(await stderr, /note: 1 running, which may complete within 25 s/);
  await assert.rejects(fetch(`${url}/live`));
});

Deno.test("check 6: SIGTERM while a stream is stuck: an error event after --drain-timeout, exit code 0", async () => {
  const server = start([...SERVE, "--port", "0", "--drain-timeout", "0.2"]);
  const stderr = new Response(server.stderr).text();
  const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
  const streams = await Promise.all(
    Array.from({ length: 8 }, () => openStream(url, { max_tokens: 500 })),
  );
  server.kill("SIGTERM");
  for (const stream of streams) {
    const data = eventData(await stream.text());
    assert.equal(data.pop(), "[DONE]");
    assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, "shutting_down");
  }
  assert.equal((await server.status).code, 0, await stderr);
  await stderr;
});

/** Waits until a server with streams has generated more than `floor` tokens and goes no further. */
async function whenStuck(url: string, floor: number): Promise<number> {
  const count = async () => {
    const text = await (await fetch(`${url}/metrics`)).text();
    return Number(text.match(/^llamacpp:tokens_predicted_total (\d+)/m)?.[1]);
  };
  let numTokens = 0;
  await eventually(async () => {
    numTokens = await count();
    if (numTokens <= floor) return false;
    // Twice: a machine may have other things to do for half a second.
    for (let look = 0; look < 2; look++) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      if (await count() !== numTokens) return false;
    }
    return true;
  }, START_MS);
  return numTokens;
}

Deno.test("check 6: SIGTERM while clients read nothing: who reads again gets the error event, who does not keeps nobody waiting", async () => {
  const DRAIN_S = 1;
  // Four seconds after the drain it would be ended, with whatever is left.
  const MOST_MS = DRAIN_S * 1000 + 4000;
  const server = start([...SERVE, "--port", "0", "--drain-timeout", `${DRAIN_S}`]);
  const stderr = new Response(server.stderr).text();
  const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
  const back = await openDeafClient({ url }, HUGE);
  const numTokens = await whenStuck(url, 0);
  const deaf = await openDeafClient({ url }, HUGE);
  await whenStuck(url, numTokens);
  const began = performance.now();
  server.kill("SIGTERM");
  const tailOf = async (socket: Deno.TcpConn) => {
    let tail = "";
    for await (const text of socket.readable.pipeThrough(new TextDecoderStream())) {
      tail = (tail + text).slice(-2000);
    }
    return tail;
  };
  // Read at once, its answers could complete within the drain.
  await new Promise((resolve) => setTimeout(resolve, DRAIN_S * 1000 + 300));
  const tail = await tailOf(back);
  assert.match(tail, /data: \{"error":\{.*"code":"shutting_down"\}\}\n\n[^:]*data: \[DONE\]\n\n/s);
  const { code } = await server.status;
  assert.equal(code, 0, await stderr);
  const tookMs = performance.now() - began;
  assert.ok(tookMs >= DRAIN_S * 1000 && tookMs <= MOST_MS, `${tookMs} ms`);
  // A stream that was cut off does not look like one that is complete.
  assert.doesNotMatch(await tailOf(deaf).catch(() => ""), /\[DONE\]/);
  await stderr;
});

Deno.test("a second SIGTERM ends a drain at once with 0, and what it cuts off is in the log", async () => {
  const server = start([...SERVE, "--port", "0", "--log-format", "json"]);
  const stderr = new Response(server.stderr).text();
  const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
  const streams = await Promise.all(
    Array.from({ length: 8 }, () => openStream(url, { max_tokens: 500 })),
  );
  server.kill("SIGTERM");
  await eventually(async () => !await isReady(url), 2000);
  await new Promise((resolve) => setTimeout(resolve, 150));
  const began = performance.now();
  server.kill("SIGTERM");
  const { code } = await server.status;
  assert.ok(performance.now() - began < 1000, `${performance.now() - began} ms`);
  assert.equal(code, 0);
  const texts = (await Promise.allSettled(streams.map((stream) => stream.text())))
    .map((end) => end.status === "fulfilled" ? end.value : "");
  // Cut off, and none says why. Whether one of them was just complete depends on the machine.
  assert.ok(texts.some((text) => !text.includes("[DONE]")));
  assert.ok(texts.every((text) => !text.includes('"error"')));
  // Deno and the driver write lines of their own.
  const lines = (await stderr).split("\n").filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
  const ids = streams.map(({ headers }) => headers.get("x-request-id"));
  const ended = lines.filter(({ request_id: id, message }) =>
    message === "request" && ids.includes(id)
  );
  assert.equal(ended.length, streams.length);
  // Whether one of them was just complete depends on the machine.
  assert.ok(
    ended.filter(({ outcome, status }) => outcome === "abort" && status === 200).length > 0,
  );
});

Deno.test("--supervise: a process that was killed is followed by another, which knows its prefixes", async () => {
  const prefixes = await Deno.makeTempDir({ prefix: "tokenbutler-" });
  const port = freePort();
  const url = `http://127.0.0.1:${port}`;
  const flags = [
    ...["--port", String(port), "--prefix-dir", prefixes, "--supervise"],
    ...["--log-format", "json"],
  ];
  const began = performance.now();
  const supervisor = start([...SERVE, ...flags]);
  const pids: number[] = [];
  let stderr = "";
  let stopped = false;
  const reading = (async () => {
    for await (const text of supervisor.stderr.pipeThrough(new TextDecoderStream())) {
      stderr += text;
      pids.push(...text.matchAll(/process (\d+) serves/g).map((match) => Number(match[1])));
    }
  })();
  const out = new Response(supervisor.stdout).text();
  try {
    await eventually(() => isReady(url), START_MS);
    const firstMs = performance.now() - began;
    const prompt = Array.from({ length: 150 }, (_, index) => 3 + (index * 7) % 300);
    const asked = { prompt, temperature: 0, max_tokens: 16 };
    const before = await postCompletion({ url }, asked);
    assert.equal(before.usage.prompt_tokens_details.cached_tokens, 0);
    // Blocks are saved while nobody waits.
    const numFiles = () => [...Deno.readDirSync(prefixes)].filter(({ isFile }) => isFile).length;
    const saved = async () =>
      (await postCompletion({ url }, { ...asked, max_tokens: 1 })).usage.prompt_tokens_details
          .cached_tokens >= 128 && numFiles() > 0;
    await eventually(saved, 10_000);
    await new Promise((resolve) => setTimeout(resolve, 500));

    const stream = await openStream(url, { max_tokens: 500 });
    assert.equal(pids.length, 1, stderr);
    const killed = performance.now();
    Deno.kill(pids[0]!, "SIGKILL");
    await assert.rejects(stream.text());
    await eventually(() => isReady(url), START_MS);
    const againMs = performance.now() - killed;
    const times = `ready after ${firstMs.toFixed(0)} ms; after a kill ${againMs.toFixed(0)} ms`;
    console.log(times);
    assert.ok(againMs <= FIRST_PAUSE_MS + START_RATIO * firstMs + START_SLACK_MS, times);
    assert.equal(pids.length, 2, stderr);
    const after = await postCompletion({ url }, asked);
    assert.equal(only(after.choices).text, only(before.choices).text);
    assert.equal(after.usage.prompt_tokens_details.cached_tokens, 128);
    assert.match(stderr, /ended with SIGKILL after \d+ s; the next one starts in 1 s/);

    // Told to end, it waits for what runs and is not followed by another.
    const last = await openStream(url, { max_tokens: 400 });
    supervisor.kill("SIGTERM");
    const chunks = await readChunks(completionChunk, last);
    assert.equal(only(chunks.at(-1)?.choices ?? []).finish_reason, "length");
    const { code } = await supervisor.status;
    stopped = true;
    assert.equal(code, 0, stderr);
    assert.equal(pids.length, 2, stderr);
    // What the supervisor says is in the form of the log too.
    const said = stderr.split("\n").filter((line) => /process \d+ /.test(line))
      .map((line) => JSON.parse(line));
    assert.deepEqual(said.map(({ level }) => level), ["info", "warn", "info"]);
    assert.ok(said.every(({ time, message }) => Date.parse(time) > 0 && /^process/.test(message)));
  } finally {
    // Harmless after a test that went well: both have ended.
    if (!stopped) {
      supervisor.kill("SIGKILL");
      for (const pid of pids.slice(-1)) Deno.kill(pid, "SIGKILL");
    }
    await reading;
    await out;
    await Deno.remove(prefixes, { recursive: true });
  }
});

Deno.test("--supervise: a server ends after its supervisor was killed, when what runs is complete", async () => {
  const port = freePort();
  const url = `http://127.0.0.1:${port}`;
  const supervisor = start([...SERVE, "--port", String(port), "--supervise"]);
  const stderr = new Response(supervisor.stderr).text();
  const stdout = new Response(supervisor.stdout).text();
  await eventually(() => isReady(url), START_MS);
  const stream = await openStream(url, { max_tokens: 400 });
  supervisor.kill("SIGKILL");
  const chunks = await readChunks(completionChunk, stream);
  assert.equal(only(chunks.at(-1)?.choices ?? []).finish_reason, "length");
  // Both ends are inherited: they close with the server.
  await Promise.all([stderr, stdout]);
  await assert.rejects(fetch(`${url}/live`));
  await supervisor.status;
});
