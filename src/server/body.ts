/** Reads and parses a request body within a limit. @module */
import { badRequest, RequestError } from "./errors.ts";

function tooLarge(limitBytes: number): RequestError {
  return new RequestError(
    413,
    "invalid_request_error",
    `The request body is larger than ${limitBytes} bytes, which is the limit of this server.`,
    // The rest of the body is not read, so the connection cannot carry another request.
    { code: "request_too_large", headers: { connection: "close" } },
  );
}

async function readBytes(request: Request, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  if (Number(request.headers.get("content-length") ?? 0) > limitBytes) throw tooLarge(limitBytes);
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  try {
    // The header may be absent or lie: what counts is what comes.
    for await (const chunk of request.body ?? []) {
      sizeBytes += chunk.byteLength;
      if (sizeBytes > limitBytes) throw tooLarge(limitBytes);
      chunks.push(chunk);
    }
  } catch (cause) {
    if (cause instanceof RequestError) throw cause;
    throw badRequest("The request body broke off before its end.", { cause });
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
 * @throws {RequestError} 413 over the limit; 400 for what is not UTF-8, not JSON or no object.
 */
export async function readJsonObject(
  request: Request,
  limitBytes: number,
): Promise<Record<string, unknown>> {
  const bytes = await readBytes(request, limitBytes);
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
