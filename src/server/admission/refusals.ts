/** Why a request is not taken, or not gone on with. @module */
import { badRequest, RequestError } from "../errors.ts";

/** 429: as many wait as may. */
export function queueFull(retryAfterSeconds: number): RequestError {
  return new RequestError(
    429,
    "rate_limit_error",
    `The queue of this server is full. Try again in ${retryAfterSeconds} s.`,
    { code: "queue_full", headers: { "retry-after": `${retryAfterSeconds}` } },
  );
}

/** 429: as much is being received as there is room for. */
export function receivingTooMuch(): RequestError {
  return new RequestError(
    429,
    "rate_limit_error",
    "This server is receiving as much as it has room for. Try again in a second.",
    { code: "too_many_bytes", headers: { "retry-after": "1", connection: "close" } },
  );
}

/** 400: more sequences in one request, `n` for each of its prompts, than could ever be taken. */
export function tooManySequences(count: number, n: number, most: number): RequestError {
  const prompts = count / n;
  const asked = n === 1
    ? `${prompts} prompts`
    : prompts === 1
    ? `${n} answers (\`n\`)`
    : `${count} answers (${prompts} prompts, \`n\` is ${n})`;
  return badRequest(
    `The request has ${asked}, and this server takes at most ${most} at once: send several ` +
      "requests.",
    {
      // The one that was given, or the first to make smaller.
      param: prompts > 1 ? "prompt" : "n",
      code: "too_many_answers",
      headers: { "x-should-retry": "false" },
    },
  );
}

/** 400: `n` above what this server gives. */
export function nTooLarge(n: number, most: number): RequestError {
  return badRequest(`\`n\` must be a whole number from 1 to ${most}, but is ${n}.`, {
    param: "n",
    code: "invalid_value",
  });
}

/** 400: a body that would take long to read, for its bytes. */
export function bodyTooComplex(most: number, what: string): RequestError {
  return badRequest(`The request body has more than ${most} ${what}, the limit of this server.`, {
    code: "body_too_complex",
    // The rest of the body is not read, so the connection cannot carry another request.
    headers: { connection: "close" },
  });
}

const TIMED_OUT = {
  code: "request_timeout",
  headers: { connection: "close", "x-should-retry": "false" },
};

/** 408: a body that stopped coming. */
export function bodyStalled(timeoutMs: number): RequestError {
  const message = `Nothing of the request body came for ${timeoutMs / 1000} s.`;
  return new RequestError(408, "timeout_error", message, TIMED_OUT);
}

/** 408: a body that comes, but not to its end. */
export function bodyTooSlow(totalMs: number): RequestError {
  const message = `The request body was not complete after ${totalMs / 1000} s.`;
  return new RequestError(408, "timeout_error", message, TIMED_OUT);
}

/** 504: the answer took longer than it may. */
export function answerTooSlow(timeoutMs: number): RequestError {
  return new RequestError(
    504,
    "timeout_error",
    `The answer was not complete after ${timeoutMs / 1000} s, which is the limit of this server.`,
    // Trying again would take as long.
    { code: "answer_timeout", headers: { "x-should-retry": "false" } },
  );
}
