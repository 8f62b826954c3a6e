/** Memory of bodies that are being received. @module */
import { receivingTooMuch } from "./refusals.ts";

/** One bound for the bodies of all requests: many that are allowed are too much together. */
export class BodyBudget {
  #usedBytes = 0;

  constructor(private readonly mostBytes: number) {}

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** @throws {RequestError} 429 when there is no room for so much more. */
  take(bytes: number): void {
    if (this.#usedBytes + bytes > this.mostBytes) throw receivingTooMuch();
    this.#usedBytes += bytes;
  }

  give(bytes: number): void {
    this.#usedBytes -= bytes;
  }
}
