/** `serve` over a real engine whose worker dies or whose device is destroyed while streams run. */
import { assert } from "std-testing";
import { NPM_CLIENTS, type NpmClient } from "../server/_npm_clients.ts";
import {
  completionChunk,
  eventData,
  eventually,
  failure,
  only,
  post,
  postCompletion,
} from "../server/_wire.ts";
import { startHurtServer } from "./_hurt_server.ts";

/** A start takes a second or two; a machine with other work takes longer. */
const START_MS = 60_000;

const ARGS = ["--context", "512", "--prefill-chunk", "32"];

/** What a client says went wrong; one of them passes the server's words on as they came. */
function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : JSON.stringify(error);
}

async function status(url: string, path: string): Promise<number> {
  const response = await fetch(`${url}${path}`);
  await response.body?.cancel();
  return response.status;
}

/** Streams and takes the first chunk. */
async function openStream(url: string, prompt: string) {
  const body = { prompt, temperature: 0, ignore_eos: true, max_tokens: 480, stream: true };
  const response = await post({ url }, "/v1/completions", body);
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await reader?.read())?.value ?? "";
  return async () => {
    for (let next = await reader?.read(); next && !next.done; next = await reader?.read()) {
      text += next.value;
    }
    return eventData(text);
  };
}

/** Has a client stream, and waits for its first piece of text. */
async function openClient(client: NpmClient, url: string) {
  const asked = { url, servedName: "default", content: "go", maxTokens: 440, ignoreEos: true };
  const pieces = client.stream(asked)[Symbol.asyncIterator]();
  assert.notEqual((await pieces.next()).done, true);
  return async () => {
    while (!(await pieces.next()).done);
  };
}

async function runsOnce(fault: "die" | "destroy", error: string, reason: RegExp): Promise<void> {
  using server = startHurtServer(ARGS);
  const url = await server.url;
  const asked = { prompt: "Once upon", temperature: 0, max_tokens: 24 };
  const before = only((await postCompletion({ url }, asked)).choices).text;

  const streams = await Promise.all(["one", "two"].map((prompt) => openStream(url, prompt)));
  const clients = await Promise.all(NPM_CLIENTS.map((client) => openClient(client, url)));
  server.hurt(fault);
  for (const rest of streams) {
    const data = await rest();
    assert.equal(data.pop(), "[DONE]");
    assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, error);
    assert.ok(data.length > 0);
    for (const chunk of data) completionChunk.parse(JSON.parse(chunk));
  }
  for (const [nth, rest] of clients.entries()) {
    const { name } = NPM_CLIENTS[nth]!;
    // Not the end of an answer: an error, with the reason in words.
    await assert.rejects(rest(), (thrown: Error) => reason.test(messageOf(thrown)), name);
  }
  assert.equal(await status(url, "/health"), 503);
  assert.equal(await status(url, "/live"), 200);
  await eventually(async () => await status(url, "/ready") === 200, START_MS);
  assert.equal(await status(url, "/health"), 200);
  assert.equal(only((await postCompletion({ url }, asked)).choices).text, before);
  assert.match(server.io.err, /the engine is lost, and is started once more: .*\n/);

  const last = await openStream(url, "last");
  server.hurt(fault);
  const data = await last();
  assert.equal(data.pop(), "[DONE]");
  assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, error);
  await assert.rejects(server.code, /the engine is lost again/);
  await assert.rejects(fetch(`${url}/live`));
}

Deno.test("check 18: device destroyed while streams run: error events, 503, one new start, then the end", () =>
  runsOnce("destroy", "device_lost", /the device was lost/));

Deno.test("check 18: engine worker killed while streams run: error events, 503, one new start, then the end", () =>
  runsOnce("die", "engine_crashed", /the engine worker died/));
