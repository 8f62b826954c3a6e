/** Server-sent events, as OpenAI clients read them. @module */
import { OPEN_PACE, type StreamPace } from "./pace.ts";

/** Headers of a stream; `no-transform` also keeps compression, which would buffer, away. */
export const STREAM_HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache, no-transform",
  "x-accel-buffering": "no",
};

/** The last event of every stream. */
export const DONE = "[DONE]";

/** A comment without a text: what llama.cpp sends, and clients know from there. */
const PING = ":\n\n";

type ByteController = ReadableStreamDefaultController<Uint8Array>;

/** What a stream tells its owner. */
export interface StreamHooks {
  /** The client is gone: `messages` must end soon. */
  onCancel(): void;
  /** The client has taken nothing for `slowMs`, or takes again. */
  onSlow?(isSlow: boolean): void;
  /**
   * The client has taken nothing for `stallMs`: `messages` is left as it is.
   *
   * @returns What is sent in place of the rest, should the client ever read on.
   */
  onStalled?(): Iterable<string>;
}

/**
 * A body of one event for each message. A message is made when the client has room for it, so that
 * a slow reader slows its own answer instead of filling memory. While no message comes, comments
 * keep the connection alive.
 */
export function eventStream(
  messages: AsyncIterator<string>,
  hooks: StreamHooks,
  pace: StreamPace = OPEN_PACE,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  // The blank after the colon matters: common benchmark clients cut six bytes off each line.
  const encode = (message: string) => encoder.encode(`data: ${message}\n\n`);
  const leave = () => {
    // This is answered only after the message that is being made: not waited for.
    messages.return?.()?.catch(() => {});
  };
  let over = false;
  let isSlow = false;
  /** Of the newest message or comment. */
  let sentMs = performance.now();
  let pingTimer: ReturnType<typeof setTimeout> | undefined;
  let timers: ReturnType<typeof setTimeout>[] = [];
  const stopTimers = () => {
    for (const timer of timers) clearTimeout(timer);
    timers = [];
  };
  const end = () => {
    over = true;
    stopTimers();
    clearTimeout(pingTimer);
  };
  /** One timer for the whole stream: two calls for each message would cost more than the rest. */
  const pingIn = (ms: number, pingMs: number, controller: ByteController) => {
    pingTimer = setTimeout(() => {
      const silentMs = performance.now() - sentMs;
      if (silentMs < pingMs) return pingIn(pingMs - silentMs, pingMs, controller);
      // One that nobody has taken yet is enough.
      if ((controller.desiredSize ?? 0) > 0) controller.enqueue(encoder.encode(PING));
      sentMs = performance.now();
      pingIn(pingMs, pingMs, controller);
    }, ms);
  };
  const setSlow = (slow: boolean) => {
    if (isSlow === slow) return;
    isSlow = slow;
    hooks.onSlow?.(slow);
  };
  /** From here on nothing is asked for until the client takes what lies there. */
  const waitForReader = (controller: ByteController) => {
    const { slowMs, stallMs } = pace;
    if (slowMs !== null) timers.push(setTimeout(() => setSlow(true), slowMs));
    if (stallMs === null) return;
    timers.push(setTimeout(() => {
      end();
      const rest = hooks.onStalled?.() ?? [];
      leave();
      for (const message of rest) controller.enqueue(encode(message));
      controller.close();
    }, stallMs));
  };
  return new ReadableStream({
    start(controller) {
      if (pace.pingMs !== null) pingIn(pace.pingMs, pace.pingMs, controller);
    },
    async pull(controller) {
      stopTimers();
      setSlow(false);
      const { value, done } = await messages.next().catch((error: unknown) => {
        // The stream fails with it: nothing can be sent any more.
        end();
        throw error;
      });
      if (over) return;
      if (done) {
        end();
        return controller.close();
      }
      controller.enqueue(encode(value));
      sentMs = performance.now();
      if ((controller.desiredSize ?? 0) <= 0) waitForReader(controller);
    },
    cancel() {
      end();
      hooks.onCancel();
      leave();
    },
  });
}
