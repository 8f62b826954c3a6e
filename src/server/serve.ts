/** Puts an application on a socket. @module */
import type { App } from "./app.ts";

/** Where to listen. */
export interface ServeOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Starts {@linkcode Serving.shutdown}. */
  readonly signal?: AbortSignal;
  /** Time that answers have to end at a shutdown; connections are cut then. */
  readonly graceMs?: number;
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
export function serve(app: App, options: ServeOptions): Serving {
  const cut = new AbortController();
  /** Requests whose answers are not wholly sent. */
  const inFlight = new Set<Promise<void>>();
  const server = Deno.serve({
    hostname: options.host,
    port: options.port,
    signal: cut.signal,
    onListen() {},
  }, (request, { completed }) => {
    const sent = completed.catch(() => {}).then(() => void inFlight.delete(sent));
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
    // Not `server.shutdown()`: it waits for ever for a request that never ends, and once it was
    // called nothing can cut the connection any more.
    cut.abort();
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
