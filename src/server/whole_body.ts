/** Answers that are sent as a whole. @module */

/** Bytes that are handed over at once; what is shorter goes out as it is. */
const PIECE_BYTES = 256 * 1024;

/**
 * A value as JSON. A long text is handed over in pieces, as its client takes them, so that the
 * listener sees whether it takes any.
 */
export function jsonAnswer(value: unknown): Response {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  const headers = { "content-type": "application/json", "content-length": `${bytes.byteLength}` };
  if (bytes.byteLength <= PIECE_BYTES) return new Response(bytes, { headers });
  let at = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      controller.enqueue(bytes.subarray(at, at += PIECE_BYTES));
      if (at >= bytes.byteLength) controller.close();
    },
  });
  return new Response(body, { headers });
}
