/** Servers for tests. @module */
import { type AppOptions, createApp, type ServedModel } from "../../src/server/app.ts";
import type { ConnectionLimits } from "../../src/server/listener/listener.ts";
import { serve } from "../../src/server/serve.ts";
import { FakeEngine, type FakeEngineOptions, FakeTemplate, FakeTokenizer } from "./_fake.ts";

export const SERVED_NAME = "tiny";

/** A server on a free port of the loopback, ended by `await using`. */
export interface TestServer extends AsyncDisposable {
  readonly url: string;
  readonly model: ServedModel;
  /** Errors that the server logged. */
  readonly logged: string[];
}

/** Serves a model. Closing the server closes the model too, unless it is `shared`. */
export async function openServer(
  model: ServedModel,
  options: Partial<AppOptions> = {},
  shared = false,
  connections?: ConnectionLimits,
): Promise<TestServer> {
  const logged: string[] = [];
  const app = createApp({
    model,
    servedName: SERVED_NAME,
    version: "0.0.0",
    log: { error: (message) => logged.push(message) },
    ...options,
  });
  const serving = await serve(app, {
    host: "127.0.0.1",
    port: 0,
    graceMs: 500,
    ...connections === undefined ? {} : { limits: connections },
  });
  return {
    url: serving.url,
    model,
    logged,
    async [Symbol.asyncDispose]() {
      await serving.shutdown();
      if (shared) return;
      await model.engine.close();
      model.template?.close();
    },
  };
}

/** What a fake server is made of. */
export interface FakeServerOptions extends FakeEngineOptions {
  readonly app?: Partial<AppOptions>;
  readonly addsBos?: boolean;
  readonly idsOnly?: boolean;
  readonly noTemplate?: boolean;
}

/** A server over the scripted engine, for shapes and errors. */
export async function openFakeServer(options: FakeServerOptions = {}) {
  const engine = new FakeEngine(options);
  const tokenizer = new FakeTokenizer(options.addsBos ?? false);
  const template = new FakeTemplate(tokenizer);
  const server = await openServer({
    engine,
    fileName: "tiny.gguf",
    tokenizer: options.idsOnly ? undefined : tokenizer,
    ...(options.idsOnly ? { endIds: tokenizer.endIds } : {}),
    template: options.idsOnly || options.noTemplate ? undefined : template,
  }, options.app);
  return Object.assign(server, { engine, tokenizer });
}
