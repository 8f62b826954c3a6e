/** Puts an application on a socket. @module */
import type { App } from "./app.ts";
import { type ConnectionLimits, listen } from "./listener/listener.ts";

/** Where to listen. */
export interface ServeOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Starts {@linkcode Serving.shutdown}. */
  readonly signal?: AbortSignal;
  /** Time that answers have to end at a shutdown; connections are cut then. */
  readonly graceMs?: number;
  /** Bounds of connections; each has a default. */
  readonly limits?: ConnectionLimits;
}

/** A server that runs. */
export interface Serving {
  readonly host: string;
  readonly port: number;
  /** Base address, without a slash at the end. */
  readonly url: string;
  /** Ends with the server. */
  readonly finished: Promise<void>;
  /** Ends answers with an error, sends what there is to send within the grace time, and closes. */
  shutdown(): Promise<void>;
}

/** Leaves room for the rest of the program to end within five seconds of a signal. */
const DEFAULT_GRACE_MS = 2000;

/**
 * Listens.
 *
 * @throws {Deno.errors.AddrInUse} If the port is taken.
 */
export async function serve(app: App, options: ServeOptions): Promise<Serving> {
  /** Requests whose answers are not wholly sent. */
  const inFlight = new Set<Promise<void>>();
  const server = await listen({
    hostname: options.host,
    port: options.port,
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  }, (request, { completed }) => {
    const sent = completed.then(() => void inFlight.delete(sent));
    inFlight.add(sent);
    return app.fetch(request);
  });
  const { hostname: host, port } = server.addr;
  let ending: Promise<void> | undefined;

  const allSent = async () => {
    while (inFlight.size > 0) await Promise.all(inFlight);
  };
  const end = async () => {
    app.stop();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const graceOver = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, options.graceMs ?? DEFAULT_GRACE_MS);
    });
    await Promise.race([allSent(), graceOver]);
    clearTimeout(timer);
    server.cut();
    await server.finished;
  };
  const shutdown = () => ending ??= end();
  options.signal?.addEventListener("abort", () => void shutdown(), { once: true });
  if (options.signal?.aborted) void shutdown();

  return {
    host,
    port,
    url: `http://${host.includes(":") ? `[${host}]` : host}:${port}`,
    finished: server.finished,
    shutdown,
  };
}
