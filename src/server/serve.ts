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
  /** Takes no more connections, ends answers with an error, and is done within the grace time. */
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
  const server = Deno.serve({
    hostname: options.host,
    port: options.port,
    signal: cut.signal,
    onListen() {},
  }, (request) => app.fetch(request));
  const { hostname: host, port } = server.addr;
  let ending: Promise<void> | undefined;

  const end = async () => {
    app.stop();
    const timer = setTimeout(() => cut.abort(), options.graceMs ?? DEFAULT_GRACE_MS);
    try {
      // Waits for open connections; the timer's abort ends those that do not come to an end.
      await Promise.race([server.shutdown(), server.finished]);
    } finally {
      clearTimeout(timer);
    }
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
