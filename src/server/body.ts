/** Reads and parses a request body within its limits. @module */
import type { BodyBudget } from "./admission/body_budget.ts";
import { JsonBounds } from "./admission/json_bounds.ts";
import { bodyStalled, bodyTooSlow } from "./admission/refusals.ts";
import { badRequest, RequestError } from "./errors.ts";

/** What a body is read within. */
export interface BodyLimits {
  readonly maxBytes: number;
  /** Milliseconds that it may bring nothing. */
  readonly timeoutMs: number;
  /** Milliseconds in which it has to be there. */
  readonly totalMs: number;
  /** Shared by all bodies that are being read. */
  readonly budget: BodyBudget;
}

function tooLarge(limitBytes: number): RequestError {
  return new RequestError(
    413,
    "invalid_request_error",
    `The request body is larger than ${limitBytes} bytes, which is the limit of this server.`,
    // The rest of the body is not read, so the connection cannot carry another request.
    { code: "request_too_large", headers: { connection: "close" } },
  );
}

/** Chunks of a body; each has to come in time, and so have all of them. */
async function* chunksInTime(
  body: ReadableStream<Uint8Array>,
  { timeoutMs, totalMs }: BodyLimits,
): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  const began = performance.now();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isDone = false;
  try {
    for (;;) {
      const leftMs = began + totalMs - performance.now();
      if (leftMs <= 0) throw bodyTooSlow(totalMs);
      const late = new Promise<never>((_, reject) => {
        timer = leftMs < timeoutMs
          ? setTimeout(() => reject(bodyTooSlow(totalMs)), leftMs)
          : setTimeout(() => reject(bodyStalled(timeoutMs)), timeoutMs);
      });
      const { value, done } = await Promise.race([reader.read(), late]);
      clearTimeout(timer);
      isDone = done;
      if (done) return;
      yield value;
    }
  } finally {
    clearTimeout(timer);
    // Not waited for: what has to come first may never come.
    if (!isDone) reader.cancel().catch(() => {});
  }
}

async function readBytes(request: Request, limits: BodyLimits): Promise<Uint8Array<ArrayBuffer>> {
  const { maxBytes, budget } = limits;
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge(maxBytes);
  const chunks: Uint8Array[] = [];
  const bounds = new JsonBounds();
  let sizeBytes = 0;
  try {
    if (request.body !== null) {
      // The header may be absent or lie: what counts is what comes.
      for await (const chunk of chunksInTime(request.body, limits)) {
        if (sizeBytes + chunk.byteLength > maxBytes) throw tooLarge(maxBytes);
        budget.take(chunk.byteLength);
        sizeBytes += chunk.byteLength;
        bounds.take(chunk);
        chunks.push(chunk);
      }
    }
  } catch (cause) {
    if (cause instanceof RequestError) throw cause;
    throw badRequest("The request body broke off before its end.", { cause });
  } finally {
    budget.give(sizeBytes);
  }
  const bytes = new Uint8Array(sizeBytes);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.byteLength;
  }
  return bytes;
}

/**
 * The body of a request as a JSON object. Members that are null are left out: clients send them
 * for "not set".
 *
 * @param example A body that would do, for whoever sends none.
 * @throws {RequestError} 413 over the limit; 408 if it stops coming; 429 if too much is coming; 400
 * for what is not UTF-8, not JSON, no object, or too many small things.
 */
export async function readJsonObject(
  request: Request,
  limits: BodyLimits,
  example?: string,
): Promise<Record<string, unknown>> {
  const bytes = await readBytes(request, limits);
  if (bytes.length === 0) {
    const such = example === undefined ? "" : `, such as ${example}`;
    throw badRequest(`The request has no body, and needs one: a JSON object${such}.`, {
      code: "invalid_json",
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.slice(0, 200) : String(cause);
    throw badRequest(`The request body is not valid JSON: ${reason}`, {
      code: "invalid_json",
      cause,
    });
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw badRequest("The request body must be a JSON object.", { code: "invalid_json" });
  }
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== null));
}
