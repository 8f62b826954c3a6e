/** `serve`: the OpenAI HTTP API. @module */
import { DEFAULT_MODEL } from "../../assets.ts";
import { TRAIN_HINT } from "../../butler/settings.ts";
import type { Engine } from "../../engine/types.ts";
import { type App, createApp, DEFAULT_BODY_LIMIT_BYTES } from "../../server/app.ts";
import { serve, type ServeOptions, type Serving } from "../../server/serve.ts";
import { CommandError, defineCommand } from "../command.ts";
import { valueFlag } from "../flags.ts";
import { interruptGuard } from "../interrupt.ts";
import { EXIT } from "../io.ts";
import { engineFlags, engineOptions, maxSeqsFlag } from "../model_flags.ts";
import { observe, observeFlags } from "../observe_flags.ts";
import { type OpenEngine, openEngine } from "../session.ts";
import { type OpenTextSide, openTextSide } from "../text_side.ts";
import { slotFlags, slotOptions } from "../slot_flags.ts";
import { integer, text } from "../values.ts";
import { VERSION } from "../version.ts";

const group = "Server";
const LOOPBACK = ["127.0.0.1", "localhost", "::1"];

/** The command, over ways to open the two sides of a model. */
export function serveCommand(openSide: OpenTextSide, open: OpenEngine) {
  return defineCommand({
    name: "serve",
    summary: "serves a model through the OpenAI HTTP API",
    usage: ["serve [flags]"],
    notes: [
      "Prints its address on standard output when the model can answer; /health gives 503 until " +
      "then. Ctrl-C or SIGTERM ends it within five seconds, with exit code 0.",
      "There are no API keys yet: whoever reaches the port can use the model.",
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
      bodyLimit: valueFlag({
        group,
        help: "bytes that the body of a request may have",
        placeholder: "BYTES",
        schema: integer(1024, 2 ** 30),
        fallback: DEFAULT_BODY_LIMIT_BYTES,
      }),
      ...observeFlags,
      ...slotFlags,
      ...engineFlags,
      maxSeqs: maxSeqsFlag(8),
    },
    async run(settings, processIo) {
      using guard = interruptGuard(processIo, EXIT.ok);
      const given = engineOptions(settings, settings.maxSeqs);
      const options = { ...given, tiers: { ...given.tiers, ...slotOptions(settings) } };
      const side = await openSide(options.modelPath, "chat");
      const servedName = settings.servedModelName ??
        (settings.model === null ? DEFAULT_MODEL.servedName : side.name);
      const tokenizer = side.tokenizer;
      const observing = await observe(settings, processIo, { name: servedName, tokenizer });
      const { io, metrics } = observing;
      const starting = Promise.withResolvers<Engine>();
      // Whoever asks while the model loads is answered; the failure itself is handled below.
      starting.promise.catch(() => {});
      const app = createApp({
        model: starting.promise.then((engine) => ({ engine, ...side })),
        servedName,
        version: VERSION,
        bodyLimitBytes: settings.bodyLimit,
        log: observing.serverLog,
        observer: observing.observer,
        operator: {
          ...metrics === undefined ? {} : { metrics },
          slots: settings.slots ?? true,
        },
      });
      let server: Serving | undefined;
      let engine: Engine | undefined;
      try {
        server = listen(app, { host: settings.host, port: settings.port, signal: guard.signal });
        if (!LOOPBACK.includes(settings.host)) {
          io.stderr(
            `note: ${settings.host} can be reached from other machines, and there are no API keys\n`,
          );
        }
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
      }
    },
  });
}

function listen(app: App, options: ServeOptions): Serving {
  try {
    return serve(app, options);
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
