/**
 * What do HTTP and SSE cost: time to the first token, time a token and tokens a second through the
 * API, against the engine called directly.
 *
 * Run: `./run bench http`
 *
 * @module
 */
import process from "node:process";
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { engineFlags, engineOptions } from "../src/cli/model_flags.ts";
import { logIo } from "../src/cli/log_io.ts";
import { observe } from "../src/cli/observe_flags.ts";
import { openTextSide } from "../src/cli/text_side.ts";
import { startEngine } from "../src/engine/start.ts";
import type { Engine, EngineOptions } from "../src/engine/types.ts";
import { WorkerEngine } from "../src/engine/worker_client.ts";
import { createApp } from "../src/server/app.ts";
import { serve } from "../src/server/serve.ts";
import { endIdsOf } from "../src/server/served_model.ts";
import { Draws } from "../src/train/draws.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import type { ClientReply, ClientTask } from "./_http_client.ts";
import { type Load, type LoadRequest, type LoadTimes, runDirectly } from "./_http_load.ts";
import { idleWorkerUrl } from "./_idle_engine.ts";
import { type Case, Report } from "./_report.ts";
import { meanError, round, summarize } from "./_stats.ts";
import { BENCH_TEXT } from "./_text.ts";
import { WatchedEngine } from "./_watched_engine.ts";

const flags = {
  ...engineFlags,
  streams: integersFlag("answers that are streamed side by side", [1, 4, 16], 1024),
  requests: countFlag("requests for each stream and round", 3),
  prompt: countFlag("tokens of a prompt", 32),
  tokens: countFlag("tokens of an answer: half as many to half as many more, drawn for each", 32),
  think: countFlag(
    "milliseconds before each request, on average: drawn, and the same both ways",
    0,
    0,
  ),
  steps: countFlag(
    "milliseconds that each step takes of an engine that waits instead of computing, so that " +
      "nothing but HTTP and the client use the processor; 0 is the model's own engine",
    0,
    0,
  ),
  rounds: countFlag("rounds over both ways", 3),
  "warm-up": countFlag("rounds before them that are not counted: code is compiled in those", 1),
};

/** A way to the engine. */
type Way = "engine" | "http";

/** A load that was run. */
interface Done {
  readonly times: LoadTimes;
  /** Processor time of the client's thread, in microseconds; without a client 0. */
  readonly clientMicros: number;
}

/** What was measured of a way in a round. */
interface Measured extends Done {
  /** Processor time of the thread that serves, in microseconds. */
  readonly mainMicros: number;
}

/** A round, both ways. */
interface Round {
  readonly engine: Measured;
  readonly http: Measured;
  /** Milliseconds that HTTP took of the first token of each request. */
  readonly firstCostMs: readonly number[];
  /** Milliseconds by which each request had its first token later than the same one directly. */
  readonly firstLaterMs: readonly number[];
}

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const most = Math.max(...settings.streams);
  const options = engineOptions(settings, most);
  const side = await openTextSide(options.modelPath, "text");
  const context = Math.max(options.contextLength ?? 0, settings.prompt + 2 * settings.tokens);
  const engine = await engineOf({ ...options, contextLength: context }, settings.steps);
  const watched = new WatchedEngine(engine);
  const model = { engine: watched, ...side };
  // As `serve` does by default, but for where the lines of the log go.
  const seen = { logFormat: "json", logLevel: "info", logPrompts: false, metrics: true } as const;
  const { observer } = await observe(seen, logIo(seen, { ...io, stderr: () => {} }), { ...side });
  const app = createApp({ model, servedName: side.name, version: "bench", observer });
  const server = await serve(app, { host: "127.0.0.1", port: 0 });
  const client = new Worker(new URL("./_http_client.ts", import.meta.url), { type: "module" });
  const { adapter, kv } = engine.info;
  const report = new Report(io, "http", {
    device: settings.steps > 0 ? `none, steps of ${settings.steps} ms` : adapter.description,
    model: side.name,
    kv: kv.type,
    prompt: settings.prompt,
    tokens: settings.tokens,
    requests: settings.requests,
    rounds: settings.rounds,
    think: settings.think,
  });
  const notes: string[] = [];
  try {
    const ids = side.tokenizer?.encode(BENCH_TEXT, { addBos: false, parseSpecial: false }) ??
      Array.from({ length: 4000 }, (_, i) => 1 + i % (engine.info.model.vocabSize - 1));
    const endIds = endIdsOf(side);
    const ways: Readonly<Record<Way, (load: Load) => Promise<Done>>> = {
      engine: async (load) => ({ times: await runDirectly(engine, load, endIds), clientMicros: 0 }),
      http: (load) => ask(client, { url: server.url, load }),
    };
    for (const streams of settings.streams) {
      const rounds: Round[] = [];
      for (let index = -settings["warm-up"]; index < settings.rounds; index++) {
        const load = { streams, requests: drawRequests(settings, streams, index, ids) };
        const found: Partial<Record<Way, Measured>> = {};
        // What drifts meets both ways alike when each is first in every other round.
        const order: Way[] = index % 2 === 0 ? ["engine", "http"] : ["http", "engine"];
        for (const way of order) {
          const begun = process.threadCpuUsage();
          const done = await ways[way](load);
          const { user, system } = process.threadCpuUsage(begun);
          found[way] = { ...done, mainMicros: user + system };
        }
        const { first, ids: answers } = found.http!.times;
        const firstCostMs = answers.map((id, at) => first[at]! - watched.takeFirstMs(`${id}-0`));
        const direct = found.engine!.times.first;
        const firstLaterMs = first.map((ms, at) => ms - direct[at]!);
        const { engine, http } = found as Record<Way, Measured>;
        if (index >= 0) rounds.push({ engine, http, firstCostMs, firstLaterMs });
      }
      const cases = {
        engine: caseOf(rounds.map(({ engine }) => engine)),
        http: { ...caseOf(rounds.map(({ http }) => http)), ...costOf(rounds) },
      };
      for (const way of ["engine", "http"] as const) report.add({ streams, way, ...cases[way] });
      notes.push(costNote(streams, cases.engine, cases.http));
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
function ask(client: Worker, task: ClientTask): Promise<Done> {
  return new Promise((resolve, reject) => {
    client.onmessage = ({ data }: MessageEvent<ClientReply>) =>
      "error" in data ? reject(new Error(data.error)) : resolve(data);
    client.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    client.postMessage(task);
  });
}

/** The model's engine, or one that waits. */
function engineOf(options: EngineOptions, stepMs: number): Promise<Engine> {
  if (stepMs === 0) return startEngine(options);
  return WorkerEngine.start(new Worker(idleWorkerUrl(stepMs), { type: "module" }), options);
}

/** The requests of a round: the same ones for the same seed. */
function drawRequests(
  settings: Settings<typeof flags>,
  streams: number,
  seed: number,
  ids: readonly number[],
): LoadRequest[] {
  const draws = new Draws(seed, streams);
  const { prompt, tokens, think } = settings;
  const least = Math.ceil(tokens / 2);
  return Array.from({ length: streams * settings.requests }, (_, index) => {
    return {
      prompt: Array.from({ length: prompt }, (_, at) => ids[(index * 97 + at) % ids.length]!),
      tokens: least + draws.below(2 * (tokens - least) + 1),
      thinkMs: think === 0 ? 0 : draws.below(2 * think + 1),
    };
  });
}

interface Numbers {
  readonly tokensPerSecond: number;
  readonly firstMs: number;
  readonly firstMsMean: number;
  readonly mainMicrosPerToken: number;
}

/** What HTTP takes, round by round and request by request. */
interface Cost {
  /** Percent of the tokens a second, the mean over the rounds, and its standard error. */
  readonly lostPercent: number;
  readonly lostPercentError: number;
  /** Of the first token of a request, in milliseconds. */
  readonly firstCostMs: number;
  readonly firstCostMsMean: number;
  readonly firstCostMsP95: number;
  readonly firstCostMsP99: number;
  /** The whole first token, against the same request directly: the mean, and its standard error. */
  readonly firstLaterMs: number;
  readonly firstLaterMsError: number;
}

function costOf(rounds: readonly Round[]): Cost {
  const rate = ({ times }: Measured) => times.tokens / times.wallMs;
  const lost = rounds.map(({ engine, http }) => (1 - rate(http) / rate(engine)) * 100);
  const first = summarize(rounds.flatMap(({ firstCostMs }) => firstCostMs));
  // By rounds: what requests of one round wait for, they wait for together.
  const later = rounds.map(({ firstLaterMs }) => summarize(firstLaterMs).mean);
  return {
    lostPercent: summarize(lost).mean,
    lostPercentError: meanError(lost),
    firstCostMs: first.median,
    firstCostMsMean: first.mean,
    firstCostMsP95: first.p95,
    firstCostMsP99: first.p99,
    firstLaterMs: summarize(later).mean,
    firstLaterMsError: meanError(later),
  };
}

function caseOf(measured: readonly Measured[]): Case & Numbers {
  const first = summarize(measured.flatMap(({ times }) => times.first));
  const each = summarize(measured.flatMap(({ times }) => times.each));
  const perSecond = measured.map(({ times }) => times.tokens / times.wallMs * 1000);
  // Of all rounds together: where a thread's time is counted in ticks, one round may have none.
  const sum = (of: (of: Measured) => number) => measured.reduce((all, one) => all + of(one), 0);
  const tokens = sum(({ times }) => times.tokens);
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
    mainMicrosPerToken: sum(({ mainMicros }) => mainMicros) / tokens,
    clientMicrosPerToken: sum(({ clientMicros }) => clientMicros) / tokens,
  };
}

function costNote(
  streams: number,
  engine: Numbers,
  http: Numbers & Cost,
): string {
  return `${streams} at once: HTTP takes ${round(http.lostPercent, 2)} % of the tokens a second ` +
    `(standard error ${round(http.lostPercentError, 2)}), ` +
    `${round(http.firstCostMs, 3)} ms of the first token (95 of 100 requests at most ` +
    `${round(http.firstCostMsP95, 3)}; the whole first token comes ` +
    `${round(http.firstLaterMs, 3)} ms later, standard error ${
      round(http.firstLaterMsError, 3)
    }), ` +
    `${round(http.mainMicrosPerToken - engine.mainMicrosPerToken, 3)} us a token of the ` +
    "serving thread";
}

export const { command, run } = defineBenchmark({
  name: "http",
  summary: "what HTTP and streaming cost, against the engine called directly",
  notes: [
    "Both ways take turns, with the same prompts and lengths of answers. The client has a thread of its own; the " +
    "processor time is that of the thread that serves.",
    "What HTTP takes of the first token is known of each request: the client's time less the " +
    "engine's in the same answer. The whole first tokens of the two ways are to be compared with " +
    "--think only: without it a stream that is called directly asks again in the moment in which " +
    "a step ends, and so never waits for one, while through HTTP it comes a few milliseconds " +
    "later and waits for a whole step. With pauses of a step or more both come at any time.",
    "On an adapter that is a CPU, HTTP and the client take their time from the model. --steps says " +
    "what is left without that.",
  ],
  flags,
  measure,
});
