/**
 * A socket that answers HTTP/1.1 requests. It is node:http and not `Deno.serve`, which waits for
 * ever for a header or a body, and does not let connections be counted.
 *
 * @module
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { getRequestListener } from "std-http";
import type { RefusedConnection } from "../../observe/types.ts";
import { asRequestError, type RequestError } from "../errors.ts";
import { Connections } from "./connections.ts";
import { UnreadSockets } from "./unread.ts";
import {
  headerTooLarge,
  notHttp,
  rawResponse,
  readTooLate,
  requestTooSlow,
  tooManyConnections,
} from "./refusals.ts";

/** Bounds of connections. */
export interface ConnectionLimits {
  /** Milliseconds from the opening of a connection to the end of a request's header. */
  readonly headerTimeoutMs: number;
  /** Milliseconds that a body may take. Who reads one tells its client; others are just cut. */
  readonly bodyTotalMs: number;
  /** Connections that one address may have at once; 0 is no bound but that of all together. */
  readonly maxConnectionsPerAddress: number;
  /** Milliseconds in which a client has to take something of what lies there; null: any time. */
  readonly unreadMs: number | null;
}

/** What holds where nothing is said. */
export const DEFAULT_CONNECTION_LIMITS: ConnectionLimits = {
  headerTimeoutMs: 10_000,
  bodyTotalMs: 300_000,
  maxConnectionsPerAddress: 256,
  // A stream is given up after half of it, which its client should be able to read.
  unreadMs: 120_000,
};

/** Bytes of a header. */
const MAX_HEADER_BYTES = 32 * 1024;
/** What telling a client takes before its connection is cut. */
const TELLING_MS = 5000;
/** A connection between two requests; longer than clients and proxies keep one by themselves. */
const KEEP_ALIVE_MS = 75_000;
/** Time in which what lies on a socket is read, whatever else is due. */
const LOOK_AGAIN_MS = 100;
/** How often deadlines are looked at, at most. */
const CHECK_MS = 500;

/** Where and how to listen. */
export interface ListenOptions {
  readonly hostname: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly limits?: ConnectionLimits;
  /** Told of connections that are closed without a request. */
  readonly onRefused?: (connection: RefusedConnection) => void;
}

/** Answers a request; `completed` is kept when its answer is sent or cannot be sent any more. */
export type RequestHandler = (
  request: Request,
  info: { readonly completed: Promise<void> },
) => Response | Promise<Response>;

/** A socket that answers. */
export interface Listener {
  readonly addr: { readonly hostname: string; readonly port: number };
  /** Ends with the last connection. */
  readonly finished: Promise<void>;
  /** Takes no new connections, and closes those that have no request. */
  close(): void;
  /** The same, and cuts all others. */
  cut(): void;
}

function errorResponse({ body, status, headers }: RequestError, id: string): Response {
  return Response.json(body, { status, headers: { ...headers, "x-request-id": id } });
}

/** What to tell a client whose request node:http could not read. */
function parserError(code: unknown): RequestError {
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return requestTooSlow();
  return code === "HPE_HEADER_OVERFLOW" ? headerTooLarge() : notHttp();
}

/**
 * Whether a request says once, and in a way that an address can be made of, what it is sent to. The
 * adapter takes names like `a.1`, which no address may have, and the first of several. HTTP/1.0 knows
 * no such field: what is asked that way, as by old probes, has no name to be checked.
 */
function hasOneAddress({ rawHeaders, httpVersion }: IncomingMessage, url: string): boolean {
  const hosts = rawHeaders.filter((_, index) =>
    index % 2 === 1 && /^host$/i.test(rawHeaders[index - 1]!)
  );
  const isNamed = hosts.length === 1 && hosts[0] !== "";
  return (isNamed || (hosts.length === 0 && httpVersion === "1.0")) && URL.canParse(url);
}

/**
 * Listens.
 *
 * @throws {Deno.errors.AddrInUse} If the port is taken.
 */
export async function listen(options: ListenOptions, handler: RequestHandler): Promise<Listener> {
  const limits = options.limits ?? DEFAULT_CONNECTION_LIMITS;
  const connections = new Connections(limits.maxConnectionsPerAddress);
  const unread = new UnreadSockets(limits.unreadMs ?? Infinity);
  /** Makes the id of a refusal and tells of it. */
  const refuse = ({ status, body }: RequestError, { remoteAddress }: Socket): string => {
    const id = crypto.randomUUID();
    const code = String(body.error.code);
    options.onRefused?.({ code, answer: { id, status }, peer: remoteAddress ?? "unknown" });
    return id;
  };
  /** Surplus connections, with the ids of their refusals. */
  const refused = new WeakMap<Socket, string>();
  const tooMany = tooManyConnections(limits.maxConnectionsPerAddress);
  /**
   * The answers that a connection waits for: several where a client asked again before it had one.
   * No error may be put into them.
   */
  const answers = new WeakMap<Socket, Set<ServerResponse>>();
  const answersOf = (socket: Socket) => {
    const known = answers.get(socket) ?? new Set();
    answers.set(socket, known);
    return known;
  };
  /** Connections whose deadline passed before anything was read. */
  const late = new WeakSet<Socket>();
  const completions = new WeakMap<IncomingMessage, Promise<void>>();
  /** Whose request is being read. */
  let asking: Socket | undefined;

  const respond = getRequestListener(async (request, env) => {
    const incoming = env.incoming as IncomingMessage;
    const { socket } = incoming;
    const surplus = refused.get(socket);
    if (surplus !== undefined) return errorResponse(tooMany, surplus);
    if (!hasOneAddress(incoming, request.url)) {
      const error = notHttp();
      return errorResponse(error, refuse(error, socket));
    }
    try {
      return await handler(request, { completed: completions.get(incoming) ?? Promise.resolve() });
    } catch (thrown) {
      return errorResponse(asRequestError(thrown), crypto.randomUUID());
    }
  }, {
    overrideGlobalObjects: false,
    // In place of the name that HTTP/1.0 does not send.
    hostname: "localhost",
    // The adapter's own errors are of requests that have no URL or no host.
    errorHandler() {
      const error = notHttp();
      return errorResponse(error, refuse(error, asking!));
    },
  });
  const server = createServer({
    headersTimeout: limits.headerTimeoutMs,
    requestTimeout: limits.headerTimeoutMs + limits.bodyTotalMs + TELLING_MS,
    connectionsCheckingInterval: Math.min(CHECK_MS, limits.headerTimeoutMs / 2),
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: MAX_HEADER_BYTES,
    // A request without one is answered below, in the shape of all errors.
    requireHostHeader: false,
  }, (incoming: IncomingMessage, outgoing: ServerResponse) => {
    const { socket } = incoming;
    answersOf(socket).add(outgoing);
    completions.set(
      incoming,
      new Promise((resolve) =>
        outgoing.once("close", () => {
          answersOf(socket).delete(outgoing);
          resolve();
        })
      ),
    );
    // What the adapter cannot make a request of it says before it waits for anything.
    asking = socket;
    void respond(incoming, outgoing);
  });
  server.on("connection", (socket: Socket) => {
    // Gone before it was looked at: there is nobody to count.
    const address = socket.remoteAddress;
    if (address === undefined) return void socket.destroy();
    const verdict = connections.add(address);
    unread.add(socket);
    socket.once("close", () => {
      connections.remove(address);
      unread.remove(socket);
      // node:http tells only the answer that was being sent, and not those that wait behind it.
      queueMicrotask(() => {
        for (const outgoing of answersOf(socket)) {
          outgoing.destroy();
          outgoing.emit("close");
        }
      });
    });
    if (verdict === "refuse") refused.set(socket, refuse(tooMany, socket));
    if (verdict !== "close") return;
    options.onRefused?.({ code: "too_many_connections", answer: null, peer: address });
    socket.destroy();
  });
  server.on("clientError", (error: Error & { code?: unknown }, socket: Socket) => {
    const isAnswering = answersOf(socket).size > 0;
    // On a connection that nothing was ever said on, a client that keeps it in store would take a
    // refusal for the answer to the request that it is just sending. But where the server itself was
    // held up, what came in time is not read yet; node:http cannot read it any more.
    if (error.code === "ERR_HTTP_REQUEST_TIMEOUT" && socket.bytesRead === 0) {
      late.add(socket);
      return void setTimeout(() => socket.bytesRead === 0 && socket.destroy(), LOOK_AGAIN_MS);
    }
    if (isAnswering || !socket.writable || error.code === "ECONNRESET") {
      return void socket.destroy();
    }
    const refusal = late.has(socket) ? readTooLate() : parserError(error.code);
    socket.end(rawResponse(refusal, refuse(refusal, socket)), () => socket.destroy());
  });

  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: Error & { code?: unknown }) => {
      reject(error.code === "EADDRINUSE" ? new Deno.errors.AddrInUse(error.message) : error);
    });
    server.listen(options.port, options.hostname, resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the server has no port");
  const looking = limits.unreadMs === null ? undefined : setInterval(
    () => unread.look(performance.now()),
    Math.min(CHECK_MS, limits.unreadMs / 4),
  );
  const finished = new Promise<void>((resolve) =>
    server.once("close", () => {
      clearInterval(looking);
      resolve();
    })
  );
  const close = () => {
    if (server.listening) server.close();
    server.closeIdleConnections();
  };
  return {
    addr: { hostname: address.address, port: address.port },
    finished,
    close,
    cut() {
      close();
      server.closeAllConnections();
    },
  };
}
