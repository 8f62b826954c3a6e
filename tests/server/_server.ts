/** Servers for tests. @module */
import { assert } from "std-testing";
import { type App, type AppOptions, createApp, type ServedModel } from "../../src/server/app.ts";
import type { ConnectionLimits } from "../../src/server/listener/listener.ts";
import { openApiDocument } from "../../src/server/openapi/document.ts";
import { serve } from "../../src/server/serve.ts";
import type { ChatTemplate } from "../../src/tokenizer/types.ts";
import { FakeEngine, type FakeEngineOptions, FakeTemplate, FakeTokenizer } from "./_fake.ts";

export const SERVED_NAME = "tiny";
/** The client has left: nobody gets this answer. */
const GONE = 499;

/** A server on a free port of the loopback, ended by `await using`. */
export interface TestServer extends AsyncDisposable {
  readonly url: string;
  readonly model: ServedModel;
  /** Errors that the server logged. */
  readonly logged: string[];
}

/**
 * The same app, which remembers answers that `/openapi.json` does not have: a status, or a 429 that
 * does not say when to come again.
 */
function compared(app: App): { readonly app: App; readonly undescribed: string[] } {
  const undescribed: string[] = [];
  const routes = Object.entries(openApiDocument(app.routes, "0.0.0").paths).map((
    [path, methods],
  ) => ({
    pattern: new RegExp(`^${path.replace(/\{\w+\}/g, ".+").replace(".json", "\\.json")}$`),
    methods,
  }));
  const compare = (request: Request, response: Response) => {
    const { pathname } = new URL(request.url);
    const method = request.method === "HEAD" ? "get" : request.method.toLowerCase();
    const route = routes.find(({ pattern }) => pattern.test(pathname));
    // Preflights are the guard's, before there is a route.
    if (route === undefined || method === "options") return;
    // What a wrong method is answered stands with the right one.
    const operation = route.methods[method] ?? Object.values(route.methods)[0];
    const { responses } = operation as { responses: Readonly<Record<string, unknown>> };
    const { status } = response;
    const knows = String(status) in responses || status === GONE;
    const tells = status !== 429 || Number(response.headers.get("retry-after")) >= 1;
    if (!knows || !tells) undescribed.push(`${request.method} ${pathname}: ${status}`);
  };
  const fetch = async (request: Request) => {
    const response = await app.fetch(request);
    compare(request, response);
    return response;
  };
  return { app: { ...app, fetch }, undescribed };
}

/** Serves a model. Closing the server closes the model too, unless it is `shared`. */
export async function openServer(
  model: ServedModel,
  options: Partial<AppOptions> = {},
  shared = false,
  connections?: ConnectionLimits,
): Promise<TestServer> {
  const logged: string[] = [];
  const { app, undescribed } = compared(createApp({
    model,
    servedName: SERVED_NAME,
    version: "0.0.0",
    log: { error: (message) => logged.push(message) },
    ...options,
  }));
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
      assert.deepEqual(undescribed, [], "answers that /openapi.json does not have");
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
  /** Instead of the one that writes roles and contents. */
  readonly template?: ChatTemplate;
  readonly connections?: ConnectionLimits;
}

/** A server over the scripted engine, for shapes and errors. */
export async function openFakeServer(options: FakeServerOptions = {}) {
  const engine = new FakeEngine(options);
  const tokenizer = new FakeTokenizer(options.addsBos ?? false);
  const template = options.template ?? new FakeTemplate(tokenizer);
  const server = await openServer(
    {
      engine,
      fileName: "tiny.gguf",
      tokenizer: options.idsOnly ? undefined : tokenizer,
      ...(options.idsOnly ? { endIds: tokenizer.endIds } : {}),
      template: options.idsOnly || options.noTemplate ? undefined : template,
    },
    options.app,
    false,
    options.connections,
  );
  return Object.assign(server, { engine, tokenizer });
}
