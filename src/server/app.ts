/**
 * The OpenAI-compatible HTTP API over an {@linkcode Engine}: routes, request ids and the one place
 * where errors become responses.
 *
 * @module
 */
import { type Context, Hono, matchedRoutes } from "std-http";
import { Admission } from "./admission/admission.ts";
import { BodyBudget } from "./admission/body_budget.ts";
import { DEFAULT_LIMITS, type RequestLimits } from "./admission/limits.ts";
import type { Exchange, Observer } from "../observe/observer.ts";
import type { RefusedConnection } from "../observe/types.ts";
import type { RequestContext } from "./answer.ts";
import { asRequestError, clientGone, RequestError, shuttingDown } from "./errors.ts";
import { createGuard, type GuardOptions, NO_GUARD } from "./guard/guard.ts";
import { ModelLife } from "./life/model_life.ts";
import { DEFAULT_PACE, type StreamPace } from "./pace.ts";
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
  /** @param requestId Of the request that it belongs to, if it belongs to one. */
  error(message: string, cause: unknown, requestId?: string): void;
}

/** How an app is made. */
export interface AppOptions {
  /** The model, or the promise of one: until it is kept, requests get 503. */
  readonly model: ServedModel | Promise<ServedModel>;
  /** The name that requests use for the model; `default` always means it too. */
  readonly servedName: string;
  /** Version of the program, for `/props`. */
  readonly version: string;
  /** Where it differs from {@linkcode DEFAULT_PACE}. */
  readonly pace?: Partial<StreamPace>;
  /** Bounds of requests; each has a default. */
  readonly limits?: Partial<RequestLimits>;
  /** Who may ask; everybody where nothing is said. */
  readonly guard?: GuardOptions;
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
  /** Serves another model, or the same on a new engine; until the promise is kept, 503. */
  load(model: ServedModel | Promise<ServedModel>): void;
  /** A connection was closed before there was a request on it. */
  refused(connection: RefusedConnection): void;
  /** Refuses new requests; those that run go on. */
  drain(): void;
  /** The same, and ends those that run with an error. */
  stop(): void;
  /** Nothing is sent any more: what was not over is told to the observer as it is. */
  cut(): void;
}

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
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const admission = new Admission(limits.maxQueue);
  const bodyLimits = {
    maxBytes: limits.bodyBytes,
    timeoutMs: limits.bodyTimeoutMs,
    totalMs: limits.bodyTotalMs,
    budget: new BodyBudget(Math.max(limits.bodyBufferBytes, limits.bodyBytes)),
  };
  const guard = createGuard(options.guard ?? NO_GUARD);
  const created = Math.floor(Date.now() / 1000);
  const pace: StreamPace = { ...DEFAULT_PACE, ...options.pace };
  const stopping = new AbortController();
  const life = new ModelLife(options.model, (error, engine) => {
    // What it did since the last scrape; it answers only until it is closed.
    void options.operator?.metrics?.remember(engine);
    log?.error(error.message, error.cause);
    observer?.engineLost(String(error.body.error.code));
  });
  const model = () => life.model();
  const report = (thrown: unknown, requestId: string) => {
    const error = asRequestError(thrown);
    // Not being ready yet is an answer, not a fault; neither is a deadline that did its work.
    if (error.status >= 500 && error.status !== 503 && error.status !== 504) {
      const { message, cause } = error;
      // What clients are not told, because it may name paths of this machine, is in the cause.
      const known = !(cause instanceof Error) ||
        message.toLowerCase().includes(cause.message.toLowerCase());
      log?.error(known ? message : `${message} (${cause.message})`, cause ?? error, requestId);
    }
  };
  const info = (): InfoContext => ({ model: model(), servedName, created, version });
  const post = (handler: (context: RequestContext) => Promise<Response>) => (c: AppContext) =>
    handler({
      request: c.req.raw,
      cameMs: performance.now(),
      model: model(),
      servedName,
      pace,
      limits,
      bodyLimits,
      admission,
      cacheScope: guard.scopeOf(c),
      stopping: stopping.signal,
      onError: (thrown) => report(thrown, c.env.requestId),
      watch: c.env.exchange,
    }).catch((thrown: unknown) => {
      // Whatever was broken off with it, for which there is no one to blame.
      throw c.req.raw.signal.aborted ? clientGone() : thrown;
    });
  const health = () => {
    model();
    return Response.json({ status: "ok" });
  };

  const ready = () => {
    const { maxSequences } = model().engine.info;
    if (!admission.isOpen(maxSequences)) throw admission.refusal(maxSequences);
    return Response.json({ status: "ok" });
  };

  const hono = new Hono<{ Bindings: Bindings }>();
  const declared: ServedRoute[] = [];
  /** Names of routes by their patterns. */
  const names = new Map<string, string>();
  // Before anything is refused: the log says what was asked for, and a path is no name of its own.
  hono.use((c, next) => {
    const name = matchedRoutes(c).map(({ path }) => names.get(path)).find((name) => name);
    if (name !== undefined) c.env.exchange?.matched(name);
    return next();
  });
  hono.use(...guard.middleware);
  const route = (
    method: "GET" | "POST",
    path: string,
    handler: (c: AppContext) => Response | Promise<Response>,
    isPartial = false,
  ) => {
    const name = routeName(path);
    declared.push({ method, path: name, isPartial });
    names.set(path, name);
    hono.on(method, path, handler);
    const allow = method === "GET" ? "GET, HEAD" : method;
    hono.all(path, (c) => {
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
  // The process answers: nothing that a new start would mend is wrong with it.
  route("GET", "/live", () => Response.json({ status: "ok" }));
  route("GET", "/ready", ready);
  route("GET", "/health", health);
  route("GET", "/v1/health", health);
  const operated = {
    engine: () => life.engine,
    model,
    bodyLimits,
  };
  const needsKey = (options.guard?.apiKeys.length ?? 0) > 0;
  const described = { routes: () => declared, version, servedName, needsKey };
  for (
    const { method, path, handler, isPartial } of [
      ...operatorRoutes(options.operator ?? {}, operated),
      ...descriptionRoutes(described),
    ]
  ) {
    route(method, path, (c) => handler(c.req), isPartial);
  }
  hono.notFound((c) => {
    throw new RequestError(
      404,
      "not_found_error",
      `There is no ${c.req.method} ${c.req.path} on this server: GET /docs lists what there is.`,
      { code: "unknown_url" },
    );
  });
  hono.onError((thrown, c) => {
    report(thrown, c.env.requestId);
    const error = asRequestError(thrown);
    c.env.exchange?.failed(error.body.error.code);
    return Response.json(error.body, { status: error.status, headers: error.headers });
  });

  return {
    routes: declared,
    async fetch(request) {
      const given = request.headers.get("x-request-id") ?? "";
      const id = REQUEST_ID.test(given) ? given : crypto.randomUUID();
      const exchange = observer?.begin(id, request);
      const response = await hono.fetch(request, { requestId: id, exchange });
      response.headers.set("x-request-id", id);
      exchange?.responded(response);
      return response;
    },
    load: (next) => life.load(next),
    refused: (connection) => observer?.refused(connection),
    drain: () => life.drain(),
    cut: () => observer?.cut(),
    stop() {
      life.drain();
      stopping.abort(shuttingDown());
    },
  };
}
