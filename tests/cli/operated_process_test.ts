/** The whole program as operators see it: full, with a log and spans, and with bounds of its own. */
import { assert } from "std-testing";
import { openCollector } from "../observe/_collector.ts";
import { eventually, post, postCompletion, postFailing } from "../server/_wire.ts";
import { parseResponse, RawClient } from "../server/_raw.ts";
import { MODEL, start, waitFor } from "./_process.ts";

Deno.test("a full server is not ready, and its log and its spans tell of each request", async () => {
  await using collector = openCollector();
  const { spans } = collector;
  const flags = ["--max-seqs", "1", "--max-queue", "1", "--max-prompt-chars", "300"];
  const server = start(
    ["serve", "--model", MODEL, "--context", "2048", "--port", "0", ...flags],
    {
      env: { TOKENBUTLER_LOG_FORMAT: "json", ...collector.env },
    },
  );
  const stderr = new Response(server.stderr).text();
  const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
  const ready = async () => {
    const response = await fetch(`${url}/ready`);
    await response.body?.cancel();
    return response.status;
  };
  assert.equal(await ready(), 200);
  const long = { prompt: [1, 2, 3], max_tokens: 1900, ignore_eos: true, stream: true };
  const streams = [await post({ url }, "/v1/completions", long)];
  streams.push(await post({ url }, "/v1/completions", long));
  assert.equal(await ready(), 429);
  const full = await post({ url }, "/v1/completions", { prompt: "secret words" });
  assert.equal(full.status, 429);
  assert.ok(Number(full.headers.get("retry-after")) > 0);
  assert.equal((await full.json()).error.code, "queue_full");
  for (const stream of streams) await stream.body?.cancel();
  await eventually(async () => await ready() === 200, 5000);

  const error = await postFailing({ url }, "/v1/completions", { prompt: "p".repeat(301) }, 400);
  assert.match(error.message, /at most 300 characters/);
  await postCompletion({ url }, { prompt: "p".repeat(300), max_tokens: 1 });
  const trace = "0af7651916cd43dd8448eb211c80319c";
  const mine = await post({ url }, "/v1/completions", { prompt: "secret words", max_tokens: 3 }, {
    headers: {
      "content-type": "application/json",
      "x-request-id": "mine",
      traceparent: `00-${trace}-b7ad6b7169203331-01`,
    },
  });
  assert.equal(mine.headers.get("x-request-id"), "mine");
  await mine.body?.cancel();
  const wanted = ["POST /v1/completions", "text_completion llama31-bf16"];
  wanted.push("queue", "prefill", "decode");
  const names = () => spans.filter(({ traceId }) => traceId === trace).map(({ name }) => name);
  await eventually(() => wanted.every((name) => names().includes(name)), 5000);

  server.kill("SIGTERM");
  assert.equal((await server.status).code, 0);
  const text = await stderr;
  // Drivers and Deno have lines of their own.
  const lines = text.split("\n").filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
  const requests = lines.filter(({ route }) => route === "/v1/completions");
  assert.deepEqual(
    requests.map(({ status, error }) => `${status} ${error ?? ""}`.trim()).toSorted(),
    ["200", "200", "200", "200", "400 context_length_exceeded", "429 queue_full"],
  );
  assert.equal(requests.filter(({ request_id: id }) => id === "mine").length, 1);
  assert.ok(requests.every(({ request_id: id }) => typeof id === "string" && id !== ""));
  assert.ok(!text.includes("secret"));
});

Deno.test("a server whose log nobody takes any more serves on", async () => {
  const server = start(["serve", "--model", MODEL, "--context", "512", "--port", "0"]);
  try {
    const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
    // From here on writing to it fails.
    await server.stderr.cancel();
    for (let round = 0; round < 3; round++) {
      using client = await RawClient.connect({ url });
      await client.write("rubbish\r\n\r\n");
      assert.equal(parseResponse(await client.readAll()).status, 400);
      await postFailing({ url }, "/v1/completions", { prompt: 7 }, 400);
      await postCompletion({ url }, { prompt: "still there", max_tokens: 2 });
    }
    server.kill("SIGTERM");
    assert.equal((await server.status).code, 0);
  } catch (error) {
    server.kill("SIGKILL");
    throw error;
  }
});
