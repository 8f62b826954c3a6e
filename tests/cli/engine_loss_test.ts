/** `serve` over a real engine whose worker dies or whose device is destroyed while streams run. */
import { assert } from "std-testing";
import { runCommand } from "../../src/cli/cli.ts";
import { serveCommand } from "../../src/cli/commands/serve.ts";
import { openTextSide } from "../../src/cli/text_side.ts";
import { WorkerEngine } from "../../src/engine/worker_client.ts";
import {
  completionChunk,
  eventData,
  eventually,
  failure,
  only,
  post,
  postCompletion,
} from "../server/_wire.ts";
import { FakeIo } from "./_io.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;
/** A start takes a second or two; a machine with other work takes longer. */
const START_MS = 60_000;

type Fault = "die" | "destroy";

/** The command, and a way to hurt the newest of its engines. */
function start() {
  const listening = Promise.withResolvers<string>();
  const io = new FakeIo({
    onOut(self) {
      const url = self.out.match(/^listening on (http:\S+)\n$/)?.[1];
      if (url !== undefined) listening.resolve(url);
    },
  });
  const workers: Worker[] = [];
  const command = serveCommand(openTextSide, (options) => {
    const worker = new Worker(new URL("./_fault_worker.ts", import.meta.url), { type: "module" });
    workers.push(worker);
    return WorkerEngine.start(worker, options);
  });
  const args = ["--port", "0", "--model", MODEL, "--context", "512", "--prefill-chunk", "32"];
  const code = runCommand(command, args, io);
  code.catch(listening.reject);
  return {
    io,
    url: listening.promise,
    code,
    hurt: (type: Fault) => workers.at(-1)?.postMessage({ type }),
  };
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

async function runsOnce(fault: Fault, error: string): Promise<void> {
  const server = start();
  const url = await server.url;
  const asked = { prompt: "Once upon", temperature: 0, max_tokens: 24 };
  const before = only((await postCompletion({ url }, asked)).choices).text;

  const streams = await Promise.all(["one", "two"].map((prompt) => openStream(url, prompt)));
  server.hurt(fault);
  for (const rest of streams) {
    const data = await rest();
    assert.equal(data.pop(), "[DONE]");
    assert.equal(failure.parse(JSON.parse(data.pop() ?? "")).error.code, error);
    assert.ok(data.length > 0);
    for (const chunk of data) completionChunk.parse(JSON.parse(chunk));
  }
  assert.equal(await status(url, "/health"), 503);
  assert.equal(await status(url, "/live"), 200);
  await eventually(async () => await status(url, "/ready") === 200, START_MS);
  assert.equal(await status(url, "/health"), 200);
  assert.equal(only((await postCompletion({ url }, asked)).choices).text, before);
  assert.match(server.io.err, /the engine is lost, and is started once more: .*\n/);

  server.hurt(fault);
  await assert.rejects(server.code, /the engine is lost again/);
  await assert.rejects(fetch(`${url}/live`));
}

Deno.test("device destroyed while streams run: error events, 503, one new start, then the end", () =>
  runsOnce("destroy", "device_lost"));

Deno.test("engine worker killed while streams run: error events, 503, one new start, then the end", () =>
  runsOnce("die", "engine_crashed"));
