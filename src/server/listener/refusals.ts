/** Errors of a connection, before there is a request that a route could answer. @module */
import { RequestError } from "../errors.ts";

/** 408: the header, or the whole request, did not come in time. */
export function requestTooSlow(): RequestError {
  return new RequestError(
    408,
    "timeout_error",
    "The request did not arrive within the time that this server waits for one.",
    // What does not come once may come the next time, but not by sending it again at once.
    { code: "request_timeout", headers: { connection: "close", "x-should-retry": "false" } },
  );
}

/** 408: the request was there, but this server was held up and read it past its deadline. */
export function readTooLate(): RequestError {
  return new RequestError(
    408,
    "timeout_error",
    "The server was held up and read the request too late: send it again.",
    { code: "request_timeout", headers: { connection: "close", "x-should-retry": "true" } },
  );
}

/** 429: this client has too many connections. */
export function tooManyConnections(most: number): RequestError {
  return new RequestError(
    429,
    "rate_limit_error",
    `This address has more than ${most} connections, which is the limit of this server.`,
    { code: "too_many_connections", headers: { connection: "close", "retry-after": "1" } },
  );
}

/** 431: the header is larger than the parser takes. */
export function headerTooLarge(): RequestError {
  return new RequestError(431, "invalid_request_error", "The request header is too large.", {
    code: "header_too_large",
    headers: { connection: "close" },
  });
}

/** 400: what came is no HTTP that names what it is sent to. */
export function notHttp(): RequestError {
  return new RequestError(400, "invalid_request_error", "This is not a valid HTTP request.", {
    code: "invalid_http",
    headers: { connection: "close" },
  });
}

const REASONS: Readonly<Record<number, string>> = {
  400: "Bad Request",
  408: "Request Timeout",
  431: "Request Header Fields Too Large",
};

/** An error as it goes over a connection whose request could not be read, with the id that it has. */
export function rawResponse({ status, headers, body }: RequestError, id: string): string {
  const text = JSON.stringify(body);
  const length = new TextEncoder().encode(text).byteLength;
  const fields = {
    ...headers,
    "x-request-id": id,
    "content-type": "application/json",
    "content-length": `${length}`,
  };
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${REASONS[status] ?? ""}\r\n${lines.join("")}\r\n${text}`;
}
