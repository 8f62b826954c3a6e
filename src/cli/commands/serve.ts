/** `serve`: the OpenAI HTTP API. @module */
import { DEFAULT_MODEL } from "../../assets.ts";
import { TRAIN_HINT } from "../../butler/settings.ts";
import { type App, createApp } from "../../server/app.ts";
import { serve, type ServeOptions, type Serving } from "../../server/serve.ts";
import type { ServedModel } from "../../server/served_model.ts";
import { CommandError, defineCommand, MisfitError } from "../command.ts";
import { EngineKeeper } from "../engine_keeper.ts";
import { valueFlag } from "../flags.ts";
import {
  accessFlags,
  connectionLimits,
  guardNotes,
  guardOptions,
  limitFlags,
  requestLimits,
} from "../guard_flags.ts";
import { keyFileWarning } from "../key_file.ts";
import { interruptGuard } from "../interrupt.ts";
import { type CliIo, EXIT } from "../io.ts";
import { lifeFlags, streamPace, unreadMs } from "../life_flags.ts";
import { engineFlags, engineOptions, maxSeqsFlag } from "../model_flags.ts";
import { startSelf } from "../self_process.ts";
import { logIo } from "../log_io.ts";
import { errorLog, observe, observeFlags } from "../observe_flags.ts";
import { type OpenEngine, openEngine } from "../session.ts";
import { endingWithSupervisor, pause, supervise } from "../supervisor.ts";
import { type OpenTextSide, openTextSide } from "../text_side.ts";
import { slotFlags, slotOptions } from "../slot_flags.ts";
import { integer, text } from "../values.ts";
import { VERSION } from "../version.ts";

const group = "Server";

/** What answers have to tell their clients that the engine is lost for good. */
const LAST_WORDS_MS = 1000;

/** The command, over ways to open the two sides of a model. */
export function serveCommand(openSide: OpenTextSide, open: OpenEngine) {
  const flags = {
    host: valueFlag({
      group,
      help: "address to listen on",
      placeholder: "HOST",
      schema: text,
      fallback: "127.0.0.1",
    }),
    port: valueFlag({
      group,
      help: "port to listen on; 0 takes a free one",
      placeholder: "N",
      schema: integer(0, 65535),
      fallback: 8080,
    }),
    servedModelName: valueFlag({
      group,
      help: "name of the model in requests and answers",
      placeholder: "NAME",
      aliases: ["alias"],
      schema: text,
      fallback: null,
      fallbackText: "the model's own",
    }),
    ...accessFlags,
    ...limitFlags,
    ...lifeFlags,
    ...observeFlags,
    ...slotFlags,
    ...engineFlags,
    maxSeqs: maxSeqsFlag(8),
  };
  return defineCommand({
    name: "serve",
    summary: "serves a model through the OpenAI HTTP API",
    usage: ["serve [flags]"],
    notes: [
      "Prints its address on standard output when the model can answer; /health gives 503 until " +
      "then. Ctrl-C or SIGTERM ends it, with exit code 0: at once where nothing runs, else new " +
      "requests get 503 and running answers may complete (--drain-timeout). A second one ends it " +
      "at once and cuts streams off.",
      "An engine that is lost (its device, its worker) or hangs (--hang-timeout) is started once " +
      "more, with the weights loaded again; then the process ends with exit code 1. With " +
      "--supervise (./run serve, or deno run with --allow-run) a process of its own serves, and is " +
      "started again when it fails, after pauses of 1 s to 60 s, but not where it cannot work as " +
      "asked (exit code 2), nor an eleventh time where none of ten ran for a minute. Prefixes in " +
      "--prefix-dir survive that.",
      "Messages for people are lines of the log with --log-format json, those of --supervise and the " +
      "error that ends it too. --log-level warn or error leaves out notes, the line about the model " +
      "and a line a request; the address is on standard output all the same, for whoever waits for it.",
      "Without a key it listens on the loopback only, and answers to no web page but its own " +
      "(--api-key, --insecure, --cors-origin). Several keys in TOKENBUTLER_API_KEY are a JSON " +
      "array. Requests with different keys share no cached rows of prompts.",
    ],
    flags,
    errorLog: (args, io) => errorLog(flags, args, io),
    async run(settings, outerIo) {
      if (settings.supervise) return await superviseServer(logIo(settings, outerIo).io);
      const log = logIo(settings, endingWithSupervisor(outerIo));
      const { io } = log;
      let keeper: EngineKeeper | undefined;
      const drainMs = settings.drainTimeout * 1000;
      const hangMs = settings.hangTimeout === 0 ? null : settings.hangTimeout * 1000;
      let cut = () => {};
      using guard = interruptGuard(
        io,
        EXIT.ok,
        () => keeper?.isUp ? drainMs : 0,
        // What is cut off has its line in the log all the same.
        () => cut(),
      );
      const given = engineOptions(settings, settings.maxSeqs);
      const options = { ...given, tiers: { ...given.tiers, ...slotOptions(settings) } };
      const guardSettings = guardOptions(settings, settings.host);
      const side = await openSide(options.modelPath, "serve");
      const servedName = settings.servedModelName ??
        (settings.model === null ? DEFAULT_MODEL.servedName : side.name);
      const tokenizer = side.tokenizer;
      const observing = await observe(settings, log, { name: servedName, tokenizer });
      const { metrics } = observing;
      const app = createApp({
        // Until the keeper below brings one.
        model: new Promise<ServedModel>(() => {}),
        servedName,
        version: VERSION,
        limits: requestLimits(settings),
        guard: guardSettings,
        pace: streamPace(settings),
        log: observing.serverLog,
        observer: observing.observer,
        operator: {
          ...metrics === undefined ? {} : { metrics },
          slots: settings.slots ?? true,
          slotFiles: settings.slotDir !== null,
        },
      });
      cut = () => app.cut();
      let server: Serving | undefined;
      try {
        const { host, port } = settings;
        const limits = { ...connectionLimits(settings), unreadMs: unreadMs(settings) };
        server = await listen(app, { host, port, signal: guard.signal, drainMs, limits });
        noteDrain(server, guard.signal, settings.drainTimeout, io);
        const warning = settings.apiKeyFile === null ? null : keyFileWarning(settings.apiKeyFile);
        if (warning !== null) io.stderr(`warning: ${warning}\n`);
        for (const note of guardNotes(guardSettings, settings.host)) io.stderr(`note: ${note}\n`);
        keeper = new EngineKeeper({
          open: () => open(options, io, hangMs),
          onStart: (engine) => app.load(engine.then((engine) => ({ engine, ...side }))),
          ending: guard.signal,
          say: (line) => io.stderr(`note: ${line}\n`),
        });
        // After an interrupt too: a process should not exit while its device works (see Session).
        const { info } = await keeper.engine;
        if (guard.received !== undefined) return EXIT.ok;
        io.stderr(
          `${servedName}: context ${info.contextLength}, up to ${info.maxSequences} sequences, ` +
            `${info.kv.type} KV cache, on ${info.adapter.description}\n`,
        );
        if (!info.kv.canPredict) {
          const stands = info.kv.canProject ? "loki chooses the rows" : "no row is left out";
          io.stderr(
            `note: there is no predictor of this model (${TRAIN_HINT}): ${stands} where a ` +
              "request does not fit the device\n",
          );
        }
        io.stdout(`listening on ${server.url}\n`);
        const lost = await Promise.race([server.finished, keeper.lost]);
        if (lost !== undefined) {
          // Those that run are just hearing of it: not that the server ends.
          await server.shutdown(LAST_WORDS_MS);
          throw lost;
        }
        return EXIT.ok;
      } finally {
        await server?.shutdown();
        await keeper?.settle();
        side.template?.close();
        side.encoder?.close();
      }
    },
  });
}

/** Has another process do all of it, without the permission to start processes. */
function superviseServer(io: CliIo): Promise<number> {
  return supervise({
    start: () => startSelf([...io.args, "--no-supervise"], "serve"),
    onInterrupt: io.onInterrupt,
    say: (line, isTrouble) => io.stderr(`${isTrouble ? "warning" : "note"}: ${line}\n`),
    nowMs: () => performance.now(),
    pause,
  });
}

/** Tells whoever ends the server what it still waits for. */
function noteDrain(server: Serving, signal: AbortSignal, seconds: number, io: CliIo): void {
  signal.addEventListener("abort", () => {
    const { numInFlight } = server;
    if (numInFlight === 0 || seconds === 0) return;
    io.stderr(
      `note: ${numInFlight} running, which may complete within ${seconds} s (--drain-timeout); ` +
        "a second signal ends them now\n",
    );
  }, { once: true });
}

async function listen(app: App, options: ServeOptions): Promise<Serving> {
  try {
    return await serve(app, options);
  } catch (error) {
    // Whoever has it may be about to go: a server before this one that still answers.
    if (error instanceof Deno.errors.AddrInUse) {
      throw new CommandError(
        `${options.host}:${options.port} is in use: choose another --port, or 0 for a free one`,
        { cause: error },
      );
    }
    const why = error instanceof Error ? error.message : String(error);
    const message = `cannot listen on ${options.host}:${options.port} (--host, --port): ${why}`;
    // An address or a name may come with the network; a permission does not come by itself.
    const isFinal = error instanceof Deno.errors.NotCapable ||
      error instanceof Error && "code" in error && error.code === "EACCES";
    throw new (isFinal ? MisfitError : CommandError)(message, { cause: error });
  }
}

export const command = serveCommand(openTextSide, openEngine);
