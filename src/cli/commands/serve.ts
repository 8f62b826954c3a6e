/** `serve`: the OpenAI HTTP API. @module */
import { DEFAULT_MODEL } from "../../assets.ts";
import { TRAIN_HINT } from "../../butler/settings.ts";
import type { Engine } from "../../engine/types.ts";
import { type App, createApp, type ServerLog } from "../../server/app.ts";
import { serve, type ServeOptions, type Serving } from "../../server/serve.ts";
import { CommandError, defineCommand } from "../command.ts";
import { valueFlag } from "../flags.ts";
import {
  accessFlags,
  connectionLimits,
  guardNotes,
  guardOptions,
  limitFlags,
  requestLimits,
} from "../guard_flags.ts";
import { interruptGuard } from "../interrupt.ts";
import { type CliIo, EXIT, isDebug } from "../io.ts";
import { engineFlags, engineOptions, maxSeqsFlag } from "../model_flags.ts";
import { type OpenEngine, openEngine } from "../session.ts";
import { type OpenTextSide, openTextSide } from "../text_side.ts";
import { integer, text } from "../values.ts";
import { VERSION } from "../version.ts";

const group = "Server";

/** The command, over ways to open the two sides of a model. */
export function serveCommand(openSide: OpenTextSide, open: OpenEngine) {
  return defineCommand({
    name: "serve",
    summary: "serves a model through the OpenAI HTTP API",
    usage: ["serve [flags]"],
    notes: [
      "Prints its address on standard output when the model can answer; /health gives 503 until " +
      "then. Ctrl-C or SIGTERM ends it within five seconds, with exit code 0.",
      "Without a key it listens on the loopback only, and answers to no web page but its own " +
      "(--api-key, --insecure, --cors-origin). Several keys in TOKENBUTLER_API_KEY are a JSON " +
      "array. Requests with different keys share no cached rows of prompts.",
    ],
    flags: {
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
      ...engineFlags,
      maxSeqs: maxSeqsFlag(8),
    },
    async run(settings, io) {
      using guard = interruptGuard(io, EXIT.ok);
      const options = engineOptions(settings, settings.maxSeqs);
      const guardSettings = guardOptions(settings, settings.host);
      const side = await openSide(options.modelPath, "serve");
      const servedName = settings.servedModelName ??
        (settings.model === null ? DEFAULT_MODEL.servedName : side.name);
      const starting = Promise.withResolvers<Engine>();
      // Whoever asks while the model loads is answered; the failure itself is handled below.
      starting.promise.catch(() => {});
      const app = createApp({
        model: starting.promise.then((engine) => ({ engine, ...side })),
        servedName,
        version: VERSION,
        limits: requestLimits(settings),
        guard: guardSettings,
        log: serverLog(io),
      });
      let server: Serving | undefined;
      let engine: Engine | undefined;
      try {
        server = await listen(app, {
          host: settings.host,
          port: settings.port,
          signal: guard.signal,
          limits: connectionLimits(settings),
        });
        for (const note of guardNotes(guardSettings, settings.host)) io.stderr(`note: ${note}\n`);
        const opening = open(options, io);
        opening.then(starting.resolve, starting.reject);
        // After an interrupt too: a process should not exit while its device works (see Session).
        engine = await opening;
        const { info } = engine;
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
        await server.finished;
        return EXIT.ok;
      } finally {
        await server?.shutdown();
        await engine?.settle();
        side.template?.close();
        side.encoder?.close();
      }
    },
  });
}

function serverLog(io: CliIo): ServerLog {
  return {
    error(message, cause) {
      io.stderr(`error: ${message}\n`);
      if (isDebug(io) && cause instanceof Error) io.stderr(`${cause.stack ?? ""}\n`);
    },
  };
}

async function listen(app: App, options: ServeOptions): Promise<Serving> {
  try {
    return await serve(app, options);
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) {
      throw new CommandError(
        `${options.host}:${options.port} is in use: choose another --port, or 0 for a free one`,
        { cause: error },
      );
    }
    const why = error instanceof Error ? error.message : String(error);
    throw new CommandError(
      `cannot listen on ${options.host}:${options.port} (--host, --port): ${why}`,
      { cause: error },
    );
  }
}

export const command = serveCommand(openTextSide, openEngine);
