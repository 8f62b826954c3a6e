/** Server-sent events, as OpenAI clients read them. @module */

/** Headers of a stream; `no-transform` also keeps compression, which would buffer, away. */
export const STREAM_HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache, no-transform",
  "x-accel-buffering": "no",
};

/** The last event of every stream. */
export const DONE = "[DONE]";

/**
 * A body of one event for each message. A message is made when the client has room for it, so that
 * a slow reader slows its own answer instead of filling memory.
 *
 * @param onCancel Called when the client is gone; it must make `messages` end soon.
 */
export function eventStream(
  messages: AsyncIterator<string>,
  onCancel: () => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = await messages.next();
      if (done) controller.close();
      // The blank after the colon matters: common benchmark clients cut six bytes off each line.
      else controller.enqueue(encoder.encode(`data: ${value}\n\n`));
    },
    cancel() {
      onCancel();
      // This is answered only after the message that is being made: not waited for.
      messages.return?.()?.catch(() => {});
    },
  });
}
