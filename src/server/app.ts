/**
 * The OpenAI-compatible HTTP API over an {@linkcode Engine}: routes, request ids and the one place
 * where errors become responses.
 *
 * @module
 */
import { type Context, Hono } from "std-http";
import type { Exchange, Observer } from "../observe/observer.ts";
import type { RequestContext } from "./answer.ts";
import {
  asRequestError,
  loadFailed,
  loading,
  RequestError,
  saysEngineIsGone,
  shuttingDown,
} from "./errors.ts";
import { type InfoContext, listModels, props, showModel } from "./info_routes.ts";
import { chatCompletions, completions } from "./routes.ts";
import type { ServedRoute } from "./openapi/document.ts";
import { descriptionRoutes } from "./openapi/handlers.ts";
import { type OperatorOptions, operatorRoutes } from "./operator_routes.ts";
import type { ServedModel } from "./served_model.ts";
import { applyTemplate, detokenize, tokenize } from "./text_routes.ts";

export type { ServedModel } from "./served_model.ts";

/** Where the server tells of errors that are its own. */
export interface ServerLog {
  /** @param requestId Of the request that it belongs to. */
  error(message: string, cause: unknown, requestId: string): void;
}

/** How an app is made. */
export interface AppOptions {
  /** The model, or the promise of one: until it is kept, requests get 503. */
  readonly model: ServedModel | Promise<ServedModel>;
  /** The name that requests use for the model; `default` always means it too. */
  readonly servedName: string;
  /** Version of the program, for `/props`. */
  readonly version: string;
  /** Largest request body; 16 MiB by default. */
  readonly bodyLimitBytes?: number;
  readonly log?: ServerLog;
  /** Told what happens to requests. */
  readonly observer?: Observer;
  /** What `/metrics` and `/slots` need; absent: there are no such routes. */
  readonly operator?: OperatorOptions;
}

/** An HTTP application. */
export interface App {
  /** Answers a request. Never rejects. */
  fetch(request: Request): Response | Promise<Response>;
  /** Every route, parameters as `{name}`. */
  readonly routes: readonly ServedRoute[];
  /** Ends running answers with an error and refuses new requests. */
  stop(): void;
}

/** Body limit where none is given: a prompt of a million token ids, with room to spare. */
export const DEFAULT_BODY_LIMIT_BYTES = 16 * 1024 * 1024;

type ModelState =
  | { readonly status: "loading" }
  | { readonly status: "ready"; readonly model: ServedModel }
  | { readonly status: "failed"; readonly cause: unknown }
  | { readonly status: "gone"; readonly error: RequestError };

type AppContext = Context<{ Bindings: Bindings }>;

/** A route as it is shown: `/v1/models/:name{.+}` is `/v1/models/{name}`. */
function routeName(path: string): string {
  return path.replace(/:(\w+)(\{[^}]*\})?/g, "{$1}");
}

/** What a request brings along to its route. */
interface Bindings {
  readonly requestId: string;
  readonly exchange: Exchange | undefined;
}

/** A request id that is safe to send back in a header and to write to a log. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

/** Makes the application. It holds no socket: see {@linkcode serve}. */
export function createApp(options: AppOptions): App {
  const { servedName, version, log, observer } = options;
  const bodyLimitBytes = options.bodyLimitBytes ?? DEFAULT_BODY_LIMIT_BYTES;
  const created = Math.floor(Date.now() / 1000);
  const stopping = new AbortController();
  let state: ModelState = { status: "loading" };
  if (options.model instanceof Promise) {
    options.model.then(
      (model) => state = { status: "ready", model },
      (cause: unknown) => state = { status: "failed", cause },
    );
  } else {
    state = { status: "ready", model: options.model };
  }

  const model = (): ServedModel => {
    if (stopping.signal.aborted) throw shuttingDown();
    if (state.status === "loading") throw loading();
    if (state.status === "failed") throw loadFailed(state.cause);
    if (state.status === "gone") throw state.error;
    return state.model;
  };
  const report = (thrown: unknown, requestId: string) => {
    const error = asRequestError(thrown);
    // From here on `/health` says so too: whoever looks after the program can start it again.
    if (state.status === "ready" && saysEngineIsGone(error)) {
      state = { status: "gone", error };
      observer?.engineLost(String(error.body.error.code));
    }
    // Not being ready yet is an answer, not a fault.
    if (error.status >= 500 && error.status !== 503) {
      const { message, cause } = error;
      // What clients are not told, because it may name paths of this machine, is in the cause.
      const known = !(cause instanceof Error) || cause.message === message;
      log?.error(known ? message : `${message} (${cause.message})`, cause ?? error, requestId);
    }
  };
  const info = (): InfoContext => ({ model: model(), servedName, created, version });
  const post = (handler: (context: RequestContext) => Promise<Response>) => (c: AppContext) =>
    handler({
      request: c.req.raw,
      model: model(),
      servedName,
      bodyLimitBytes,
      stopping: stopping.signal,
      onError: (thrown) => report(thrown, c.env.requestId),
      watch: c.env.exchange,
    });
  const health = () => {
    model();
    return Response.json({ status: "ok" });
  };

  const hono = new Hono<{ Bindings: Bindings }>();
  const declared: ServedRoute[] = [];
  const route = (
    method: "GET" | "POST",
    path: string,
    handler: (c: AppContext) => Response | Promise<Response>,
  ) => {
    const name = routeName(path);
    declared.push({ method, path: name });
    hono.on(method, path, (c) => {
      c.env.exchange?.matched(name);
      return handler(c);
    });
    const allow = method === "GET" ? "GET, HEAD" : method;
    hono.all(path, (c) => {
      c.env.exchange?.matched(name);
      throw new RequestError(
        405,
        "invalid_request_error",
        `${c.req.path} takes ${method}, not ${c.req.method}.`,
        { code: "method_not_allowed", headers: { allow } },
      );
    });
  };

  route("POST", "/v1/completions", post(completions));
  route("POST", "/v1/chat/completions", post(chatCompletions));
  route("POST", "/tokenize", post(tokenize));
  route("POST", "/detokenize", post(detokenize));
  route("POST", "/apply-template", post(applyTemplate));
  route("GET", "/v1/models", () => listModels(info()));
  route("GET", "/v1/models/:name{.+}", (c) => showModel(info(), c.req.param("name") ?? ""));
  route("GET", "/props", () => props(info()));
  route("GET", "/health", health);
  route("GET", "/v1/health", health);
  const operated = {
    engine: () => state.status === "ready" ? state.model.engine : null,
    model,
    bodyLimitBytes,
  };
  const described = { routes: () => declared, version, servedName };
  for (
    const { method, path, handler } of [
      ...operatorRoutes(options.operator ?? {}, operated),
      ...descriptionRoutes(described),
    ]
  ) {
    route(method, path, (c) => handler(c.req));
  }
  hono.notFound((c) => {
    throw new RequestError(
      404,
      "not_found_error",
      `There is no ${c.req.method} ${c.req.path} on this server.`,
      { code: "unknown_url" },
    );
  });
  hono.onError((thrown, c) => {
    report(thrown, c.env.requestId);
    const error = asRequestError(thrown);
    return Response.json(error.body, { status: error.status, headers: error.headers });
  });

  return {
    routes: declared,
    async fetch(request) {
      const given = request.headers.get("x-request-id") ?? "";
      const id = REQUEST_ID.test(given) ? given : crypto.randomUUID();
      const exchange = observer?.begin(id, request.method);
      const response = await hono.fetch(request, { requestId: id, exchange });
      response.headers.set("x-request-id", id);
      exchange?.responded(response);
      return response;
    },
    stop() {
      stopping.abort(shuttingDown());
    },
  };
}
