/** Who may ask: names, origins and keys, before any route sees a request. @module */
import { type Context, cors, type MiddlewareHandler } from "std-http";
import { ApiKeys, keysOf } from "./keys.ts";
import { isAllowedHost, isListedOrigin, isSameOrigin } from "./origins.ts";
import { hostNotAllowed, originNotAllowed, wrongKey } from "./refusals.ts";

/** Who may ask. */
export interface GuardOptions {
  /** Keys, one of which a request has to have; none: nobody is asked for one. */
  readonly apiKeys: readonly string[];
  /** Names that a `Host` header may have beside addresses and `localhost`; null: any. */
  readonly allowedHosts: readonly string[] | null;
  /** Origins whose pages may ask; see {@linkcode isOriginEntry}. */
  readonly corsOrigins: readonly string[];
}

/** Everybody who reaches the socket. */
export const NO_GUARD: GuardOptions = { apiKeys: [], allowedHosts: null, corsOrigins: ["*"] };

/** Routes that tell nothing and that a probe has to reach, without a key and without `Host`. */
export const PUBLIC_PATHS: ReadonlySet<string> = new Set([
  "/health",
  "/v1/health",
  "/live",
  "/ready",
]);

/**
 * Routes without a key: a browser, which cannot send one, shows the description of the others. It is
 * the same wherever this version runs, but for routes that were switched off, and for those that need
 * a `--slot-dir`: it tells whether there is one.
 */
export const KEYLESS_PATHS: ReadonlySet<string> = new Set([
  ...PUBLIC_PATHS,
  "/openapi.json",
  "/docs",
]);

/** Seconds that a browser may keep what a preflight said. */
const PREFLIGHT_SECONDS = 600;

/** Middleware, and what it found out. */
export interface Guard {
  readonly middleware: readonly MiddlewareHandler[];
  /** What stands for the key of a request; undefined where none is asked for. */
  scopeOf(c: Context): string | undefined;
}

/** Makes the middleware; it throws what a request is refused with. */
export function createGuard(options: GuardOptions): Guard {
  const { allowedHosts, corsOrigins } = options;
  const keys = new ApiKeys(options.apiKeys);
  const scopes = new WeakMap<Request, string>();

  const checkHost: MiddlewareHandler = (c, next) => {
    const host = c.req.header("host");
    // HTTP/1.0 has no such field. No browser speaks it, but a proxy beside this server may, and a page
    // behind that: who names nothing is told that the server lives, and nothing else.
    if (host === undefined && PUBLIC_PATHS.has(c.req.path)) return next();
    if (allowedHosts !== null && !isAllowedHost(host ?? "", allowedHosts)) throw hostNotAllowed();
    return next();
  };
  const checkOrigin: MiddlewareHandler = (c, next) => {
    const origin = c.req.header("origin");
    if (
      origin !== undefined && !isListedOrigin(origin, corsOrigins) &&
      !isSameOrigin(origin, c.req.header("host") ?? "")
    ) throw originNotAllowed();
    return next();
  };
  const checkKey: MiddlewareHandler = (c, next) => {
    if (!keys.required || KEYLESS_PATHS.has(c.req.path)) return next();
    const given = keysOf(c.req.raw.headers);
    const scope = given.map((key) => keys.scopeOf(key)).find((scope) => scope !== undefined);
    if (scope === undefined) throw wrongKey(given.length > 0);
    scopes.set(c.req.raw, scope);
    return next();
  };
  return {
    middleware: [
      checkHost,
      // Answers preflights, which have no key and whose origin it is that decides.
      cors({
        origin: (origin) => isListedOrigin(origin, corsOrigins) ? origin : null,
        allowMethods: ["GET", "HEAD", "POST"],
        // What clients of the OpenAI API read.
        exposeHeaders: ["x-request-id", "retry-after", "x-should-retry"],
        maxAge: PREFLIGHT_SECONDS,
      }),
      checkOrigin,
      checkKey,
    ],
    scopeOf: (c) => scopes.get(c.req.raw),
  };
}
