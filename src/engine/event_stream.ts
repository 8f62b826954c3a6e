/** The consumer's end of a request: a buffer that is an async iterator. @module */
import type { EngineEvent } from "./types.ts";

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/**
 * Hands events that are pushed to whoever iterates. Ends after `done` or `error`; leaving early
 * drops what is buffered and everything pushed later.
 */
export class EventStream implements AsyncIterableIterator<EngineEvent, undefined> {
  #buffer: EngineEvent[] = [];
  /** Consumers that wait for an event; empty whenever the buffer is not. */
  #waiting: ((result: IteratorResult<EngineEvent, undefined>) => void)[] = [];
  #last = false;
  readonly #onLeave: () => void;

  /** @param onLeave Called once if the consumer leaves before the last event was pushed. */
  constructor(onLeave: () => void) {
    this.#onLeave = onLeave;
  }

  /** Delivers an event; ignored after the last one. */
  push(event: EngineEvent): void {
    if (this.#last) return;
    if (event.type === "done" || event.type === "error") this.#last = true;
    const resolve = this.#waiting.shift();
    if (resolve === undefined) this.#buffer.push(event);
    else resolve({ done: false, value: event });
    if (this.#last) this.#wakeAll();
  }

  next(): Promise<IteratorResult<EngineEvent, undefined>> {
    const event = this.#buffer.shift();
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    if (this.#last) return Promise.resolve(DONE);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  return(): Promise<IteratorReturnResult<undefined>> {
    this.#buffer = [];
    if (!this.#last) {
      this.#last = true;
      this.#wakeAll();
      this.#onLeave();
    }
    return Promise.resolve(DONE);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  #wakeAll(): void {
    for (const resolve of this.#waiting) resolve(DONE);
    this.#waiting = [];
  }
}
