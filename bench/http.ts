/**
 * What do HTTP and SSE cost: time to the first token, time a token and tokens a second through the
 * API, against the engine called directly.
 *
 * Run: `./run bench http`
 *
 * @module
 */
import process from "node:process";
import { type Settings, valueFlag } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags, engineOptions } from "../src/cli/model_flags.ts";
import { openTextSide } from "../src/cli/text_side.ts";
import { integer } from "../src/cli/values.ts";
import { startEngine } from "../src/engine/start.ts";
import { createApp } from "../src/server/app.ts";
import { serve } from "../src/server/serve.ts";
import { Draws } from "../src/train/draws.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import { type Load, type LoadTimes, runDirectly } from "./_http_load.ts";
import { type Case, Report } from "./_report.ts";
import { round, summarize } from "./_stats.ts";
import { BENCH_TEXT } from "./_text.ts";

const flags = {
  ...engineFlags,
  streams: integersFlag("answers that are streamed side by side", [1, 4, 16], 1024),
  requests: countFlag("requests of each stream and round", 3),
  prompt: countFlag("tokens of a prompt", 32),
  tokens: countFlag("tokens of an answer", 32),
  pause: valueFlag({
    group: "Measurement",
    help: "most milliseconds that a stream waits before it asks, drawn for each request",
    placeholder: "MS",
    schema: integer(0, 600_000),
    fallback: 0,
  }),
  rounds: countFlag("rounds over both ways", 3),
  "warm-up": countFlag("rounds before them that are not counted: code is compiled in those", 1),
};

/** A way to the engine. */
type Way = "engine" | "http";

/** What was measured of a way. */
interface Measured {
  readonly times: LoadTimes;
  /** Processor time of the thread that serves, in microseconds. */
  readonly mainMicros: number;
}

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const most = Math.max(...settings.streams);
  const options = engineOptions(settings, most);
  const side = await openTextSide(options.modelPath, "text");
  const context = Math.max(options.contextLength ?? 0, settings.prompt + settings.tokens);
  const engine = await startEngine({ ...options, contextLength: context });
  const app = createApp({ model: { engine, ...side }, servedName: side.name, version: "bench" });
  const server = await serve(app, { host: "127.0.0.1", port: 0 });
  const client = new Worker(new URL("./_http_client.ts", import.meta.url), { type: "module" });
  const { adapter, kv } = engine.info;
  const report = new Report(io, "http", {
    device: adapter.description,
    model: side.name,
    kv: kv.type,
  });
  const notes: string[] = [];
  try {
    const ids = side.tokenizer?.encode(BENCH_TEXT, { addBos: false, parseSpecial: false }) ??
      Array.from({ length: 4000 }, (_, i) => 1 + i % (engine.info.model.vocabSize - 1));
    const ways: Readonly<Record<Way, (load: Load) => Promise<LoadTimes>>> = {
      engine: (load) => runDirectly(engine, load),
      http: (load) => ask(client, { url: server.url, load }),
    };
    for (const streams of settings.streams) {
      const { requests, tokens } = settings;
      const prompts = Array.from({ length: streams * requests }, (_, index) => {
        const start = index * 97 % Math.max(1, ids.length - settings.prompt);
        return ids.slice(start, start + settings.prompt);
      });
      const found: Record<Way, Measured[]> = { engine: [], http: [] };
      for (let index = -settings["warm-up"]; index < settings.rounds; index++) {
        const draws = new Draws(index, streams);
        const pauses = prompts.map(() => settings.pause * draws.next());
        const load = { streams, requests, prompts, tokens, pauses };
        for (const way of ["engine", "http"] as const) {
          const begun = process.threadCpuUsage();
          const times = await ways[way](load);
          const { user, system } = process.threadCpuUsage(begun);
          if (index >= 0) found[way].push({ times, mainMicros: user + system });
        }
      }
      const cases = { engine: caseOf(found.engine), http: caseOf(found.http) };
      for (const way of ["engine", "http"] as const) report.add({ streams, way, ...cases[way] });
      notes.push(costNote(streams, settings.pause > 0, cases.engine, cases.http));
    }
    report.finish(notes);
  } finally {
    client.terminate();
    await server.shutdown();
    // The end of the process takes the device along: a driver may crash at a teardown that meets it.
    await engine.settle();
  }
}

/** Sends a load to the client's thread. */
function ask(client: Worker, task: { url: string; load: Load }): Promise<LoadTimes> {
  return new Promise((resolve, reject) => {
    client.onmessage = ({ data }: MessageEvent<{ times?: LoadTimes; error?: string }>) =>
      data.times === undefined ? reject(new Error(data.error)) : resolve(data.times);
    client.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    client.postMessage(task);
  });
}

interface Numbers {
  readonly tokensPerSecond: number;
  readonly firstMs: number;
  readonly firstMsMean: number;
  readonly mainMicrosPerToken: number;
}

function caseOf(measured: readonly Measured[]): Case & Numbers {
  const first = summarize(measured.flatMap(({ times }) => times.first));
  const each = summarize(measured.flatMap(({ times }) => times.each));
  const perSecond = measured.map(({ times }) => times.tokens / times.wallMs * 1000);
  const micros = measured.map(({ times, mainMicros }) => mainMicros / times.tokens);
  return {
    tokensPerSecond: summarize(perSecond).median,
    firstMs: first.median,
    firstMsMean: first.mean,
    firstMsP95: first.p95,
    firstMsP99: first.p99,
    msMin: each.min,
    ms: each.median,
    msP95: each.p95,
    msP99: each.p99,
    mainMicrosPerToken: Math.min(...micros),
  };
}

function costNote(streams: number, pauses: boolean, engine: Numbers, http: Numbers): string {
  const lost = (1 - http.tokensPerSecond / engine.tokensPerSecond) * 100;
  // Streams that pause are not kept busy.
  const rate = pauses ? "" : `${round(lost, 2)} % of the tokens a second, `;
  return `${streams} at once: HTTP takes ${rate}` +
    `${round(http.firstMs - engine.firstMs, 2)} ms of the first token ` +
    `(${round(http.firstMsMean - engine.firstMsMean, 2)} of its mean), ` +
    `${round(http.mainMicrosPerToken - engine.mainMicrosPerToken, 3)} us a token of the ` +
    "serving thread";
}

export const { run } = defineBenchmark({
  name: "http",
  summary: "what HTTP and streaming cost, against the engine called directly",
  notes: [
    "Both ways take turns, with the same prompts. The client has a thread of its own; the " +
    "processor time is that of the thread that serves.",
    "Streams that ask at the same moment reach an engine that is called directly before its next " +
    "step, all of them, while through HTTP some of them come too late for it and wait for the one " +
    "after. With --pause they do not ask at the same moment, so that both ways miss as many steps: " +
    "take it to compare the first token where a step takes long.",
  ],
  flags,
  measure,
});
