/**
 * Encodes long texts in a worker with a deadline. Short ones are encoded here: that takes less time
 * than a turn of the worker, which may be busy. A tokenizer that cuts by patterns of the model file
 * encodes none here, since those may take any time.
 *
 * @module
 */
import { WORKERS } from "../assets.ts";
import { type EncodePart, type EncodeReply, type EncodeRequest, PROBE } from "./encode_protocol.ts";
import type { Tokenizer } from "./types.ts";

export type { EncodePart } from "./encode_protocol.ts";

/** Turns texts into ids; close it. */
export interface PartEncoder {
  /**
   * Ids of each part.
   *
   * @param signal Fires when nobody wants them any more: then they are not made.
   * @throws {EncodeError} If it takes too long, or if too many wait.
   */
  encode(
    parts: readonly EncodePart[],
    signal?: AbortSignal,
  ): Promise<readonly (readonly number[])[]>;
  close(): void;
}

/** A text that was not encoded. `busy`: others wait already; `timeout`: it took too long. */
export class EncodeError extends Error {
  override readonly name = "EncodeError";
  constructor(readonly code: "busy" | "timeout" | "failed", message: string) {
    super(message);
  }
}

/** Bounds of a {@linkcode BackgroundEncoder}. */
export interface BackgroundEncoderOptions {
  /** UTF-16 units up to which a text is encoded here. */
  readonly inlineLength?: number;
  /** Milliseconds that every text may take, and how many more for each million UTF-16 units. */
  readonly deadlineMs?: number;
  readonly deadlineMsPerMillion?: number;
  /** Requests that may wait. */
  readonly maxWaiting?: number;
}

/** Some 15 ms of the worst text, on a slow machine. */
const INLINE_LENGTH = 2048;
/** Four times what the worst texts take on a slow machine that does other things too. */
const DEADLINE_MS = 2000;
const DEADLINE_MS_PER_MILLION = 30_000;
const MAX_WAITING = 256;
/** Opening a model and building its tokenizer. */
const OPEN_MS = 60_000;

/** See the module. */
export class BackgroundEncoder implements PartEncoder {
  readonly #options: Required<BackgroundEncoderOptions>;
  #worker: Promise<Worker> | undefined;
  #numWaiting = 0;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  /**
   * @param path Model that the worker opens for itself.
   * @param tokenizer The same model's, for short texts.
   */
  constructor(
    private readonly path: string,
    private readonly tokenizer: Tokenizer,
    options: BackgroundEncoderOptions = {},
  ) {
    this.#options = {
      inlineLength: tokenizer.hasUnknownPatterns ? 0 : options.inlineLength ?? INLINE_LENGTH,
      deadlineMs: options.deadlineMs ?? DEADLINE_MS,
      deadlineMsPerMillion: options.deadlineMsPerMillion ?? DEADLINE_MS_PER_MILLION,
      maxWaiting: options.maxWaiting ?? MAX_WAITING,
    };
  }

  /** Starts the worker, so that the first long text need not wait for it. */
  start(): void {
    this.#started().catch(() => {
      // Whoever encodes first tries again, and hears of it.
    });
  }

  encode(
    parts: readonly EncodePart[],
    signal?: AbortSignal,
  ): Promise<readonly (readonly number[])[]> {
    const length = parts.reduce((sum, { text }) => sum + text.length, 0);
    const { inlineLength, deadlineMs, deadlineMsPerMillion, maxWaiting } = this.#options;
    if (length <= inlineLength) return encodeHere(this.tokenizer, parts);
    if (this.#numWaiting >= maxWaiting) {
      const message = "too many long texts wait to be tokenized";
      return Promise.reject(new EncodeError("busy", message));
    }
    this.#numWaiting++;
    const timeoutMs = deadlineMs + deadlineMsPerMillion * length / 1e6;
    const ids = this.#last.then(() => {
      signal?.throwIfAborted();
      return this.#exchange(parts, timeoutMs);
    }).finally(() => {
      this.#numWaiting--;
    });
    this.#last = ids.catch(() => {});
    return ids;
  }

  close(): void {
    this.#closed = true;
    this.#end();
  }

  async #exchange(
    parts: readonly EncodePart[],
    timeoutMs: number,
  ): Promise<readonly (readonly number[])[]> {
    const worker = await this.#started();
    const reply = await ask(worker, { type: "encode", parts }, timeoutMs);
    if (reply?.type === "ids") return reply.ids.map((ids) => Array.from(ids));
    // Only ending the worker ends what it is doing. The next text starts another.
    this.#end();
    if (this.#closed) throw new EncodeError("failed", "the encoder is closed");
    if (reply === undefined) {
      throw new EncodeError("timeout", `the text was not tokenized within ${timeoutMs} ms`);
    }
    throw new EncodeError("failed", reply.type === "failed" ? reply.message : "no ids");
  }

  #started(): Promise<Worker> {
    if (this.#closed) return Promise.reject(new EncodeError("failed", "the encoder is closed"));
    return this.#worker ??= this.#open().catch((error: unknown) => {
      this.#worker = undefined;
      throw error;
    });
  }

  async #open(): Promise<Worker> {
    const worker = new Worker(WORKERS.encode, { type: "module", name: "tokenizer" });
    const reply = await ask(worker, { type: "open", path: this.path }, OPEN_MS);
    if (reply?.type === "ready" && this.#isOurs(reply)) {
      if (!this.#closed) return worker;
    }
    worker.terminate();
    const why = reply?.type === "failed"
      ? reply.message
      : reply?.type === "ready"
      ? "the model's file was replaced"
      : "no answer";
    throw new EncodeError("failed", `the worker for long texts does not start: ${why}`);
  }

  #isOurs({ vocabSize, probe }: Extract<EncodeReply, { type: "ready" }>): boolean {
    const ours = this.tokenizer.encode(PROBE.text, PROBE);
    return vocabSize === this.tokenizer.vocabSize && probe.length === ours.length &&
      probe.every((id, index) => id === ours[index]);
  }

  #end(): void {
    this.#worker?.then((worker) => worker.terminate(), () => {});
    this.#worker = undefined;
  }
}

/** Encodes where it is called. */
export function encodeHere(
  tokenizer: Tokenizer,
  parts: readonly EncodePart[],
): Promise<readonly (readonly number[])[]> {
  return Promise.try(() => parts.map((part) => tokenizer.encode(part.text, part)));
}

/** The reply of a worker, or undefined when it takes too long. */
function ask(
  worker: Worker,
  request: EncodeRequest,
  timeoutMs: number,
): Promise<EncodeReply | undefined> {
  return new Promise((resolve) => {
    const settle = (reply: EncodeReply | undefined) => {
      clearTimeout(timer);
      worker.onmessage = null;
      worker.onerror = null;
      resolve(reply);
    };
    const timer = setTimeout(() => settle(undefined), timeoutMs);
    worker.onmessage = (event: MessageEvent<EncodeReply>) => settle(event.data);
    worker.onerror = (event) => {
      event.preventDefault();
      settle({ type: "failed", message: event.message });
    };
    worker.postMessage(request);
  });
}
