/** An engine that notes how long each request waited for its first token. @module */
import type {
  Engine,
  EngineEvent,
  GenerateRequest,
  SlotReply,
  SlotRequest,
} from "../src/engine/types.ts";

/**
 * Passes everything on to another engine. What a server adds to the time to the first token is then
 * known request by request: the client's time less this engine's. Both are differences on one clock,
 * so that the clocks of two threads need not agree.
 */
export class WatchedEngine implements Engine {
  readonly #engine: Engine;
  readonly #firstMs = new Map<string, number>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  get info() {
    return this.#engine.info;
  }

  get lost() {
    return this.#engine.lost;
  }

  generate(request: GenerateRequest): AsyncIterableIterator<EngineEvent> {
    const asked = performance.now();
    return this.#watch(request.id, asked, this.#engine.generate(request));
  }

  async *#watch(id: string, asked: number, events: AsyncIterableIterator<EngineEvent>) {
    let begun = false;
    for await (const event of events) {
      if (event.type === "token" && !begun) {
        begun = true;
        this.#firstMs.set(id, performance.now() - asked);
      }
      yield event;
    }
  }

  /**
   * Milliseconds from the call to the first token.
   *
   * @param id Of a request.
   * @throws {RangeError} If it had no token, or was taken before.
   */
  takeFirstMs(id: string): number {
    const firstMs = this.#firstMs.get(id);
    if (firstMs === undefined) throw new RangeError(`no token came for ${id}`);
    this.#firstMs.delete(id);
    return firstMs;
  }

  cancel(id: string): void {
    this.#engine.cancel(id);
  }

  hold(id: string, held: boolean): void {
    this.#engine.hold(id, held);
  }

  stats() {
    return this.#engine.stats();
  }

  slot(request: SlotRequest): Promise<SlotReply> {
    return this.#engine.slot(request);
  }

  close(): Promise<void> {
    return this.#engine.close();
  }

  settle(): Promise<void> {
    return this.#engine.settle();
  }
}
