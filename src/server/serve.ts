/** Puts an application on a socket. @module */
import type { App } from "./app.ts";
import { type ConnectionLimits, listen } from "./listener/listener.ts";

/** Where to listen. */
export interface ServeOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Starts {@linkcode Serving.shutdown} with {@linkcode drainMs}. */
  readonly signal?: AbortSignal;
  /** Time that running answers have to complete after the signal; none by default. */
  readonly drainMs?: number;
  /** Time that answers have to send their last event; connections are cut then. */
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
  /** Requests whose answers are not wholly sent. */
  readonly numInFlight: number;
  /**
   * Refuses new requests, lets answers complete for `drainMs`, ends the others with an error, sends
   * what there is to send within the grace time, and closes. What a second call says is ignored.
   */
  shutdown(drainMs?: number): Promise<void>;
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
    onRefused: (connection) => app.refused(connection),
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
  const within = async (ms: number, work: Promise<unknown>): Promise<void> => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const over = new Promise<void>((resolve) => timer = setTimeout(resolve, ms));
    await Promise.race([work, over]);
    clearTimeout(timer);
  };
  const end = async (drainMs: number) => {
    app.drain();
    // Those that run now: whoever asks how the server is, again and again, keeps nobody waiting.
    if (drainMs > 0) await within(drainMs, Promise.all(inFlight));
    app.stop();
    await within(options.graceMs ?? DEFAULT_GRACE_MS, allSent());
    server.cut();
    await server.finished;
    app.cut();
  };
  const shutdown = (drainMs = 0) => ending ??= end(drainMs);
  const onSignal = () => void shutdown(options.drainMs);
  options.signal?.addEventListener("abort", onSignal, { once: true });
  if (options.signal?.aborted) onSignal();

  return {
    host,
    port,
    url: `http://${host.includes(":") ? `[${host}]` : host}:${port}`,
    finished: server.finished,
    get numInFlight() {
      return inFlight.size;
    },
    shutdown,
  };
}
