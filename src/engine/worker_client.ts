/** The client's end of the protocol: an {@linkcode Engine} whose work is done in a worker. @module */
import { EventStream } from "./event_stream.ts";
import { noteOnConsole } from "./note.ts";
import { type ClientMessage, errorFromData, type WorkerMessage } from "./protocol.ts";
import { Pulse, watchPulse } from "./pulse.ts";
import { MessageBell } from "./turn.ts";
import type {
  Engine,
  EngineErrorData,
  EngineEvent,
  EngineInfo,
  EngineNote,
  EngineOptions,
  EngineStats,
  GenerateRequest,
  LoadProgress,
  SlotReply,
  SlotRequest,
} from "./types.ts";

/** What is needed of a `Worker`. */
export interface WorkerPort {
  onmessage: ((event: MessageEvent) => void) | null;
  onmessageerror: ((event: MessageEvent) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
  postMessage(message: ClientMessage): void;
  /** Stops the other side at once. */
  terminate(): void;
}

/** Tells how an engine in a worker is looked after. */
export interface WorkerEngineHooks {
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Told of what belongs to no request; the console, unless it is said. */
  readonly onNote?: (note: EngineNote) => void;
  /** How long {@linkcode WorkerEngine.close} waits for the worker before it ends it by force. */
  readonly closeWithinMs?: number;
  /** The same for {@linkcode WorkerEngine.settle}, which leaves the worker as it is then. */
  readonly settleWithinMs?: number;
  /**
   * How long nothing may be completed while there is something to do; then the worker is given up
   * like one that died. Null or absent: for ever.
   */
  readonly hangMs?: number | null;
  /** The same for its start; two minutes or {@linkcode hangMs}, whichever is more. */
  readonly startHangMs?: number;
  /**
   * Leaves a worker that could not start the engine to the end of the process, which follows at
   * once: a worker that is ended unloads the driver, which may take a process down that exits
   * meanwhile.
   */
  readonly leaveFailed?: boolean;
}

/** Modules, files and drivers may take so long before the first sign of life. */
const START_HANG_MS = 120_000;

/** The worker is gone, or was told to go. */
export class EngineGoneError extends Error {
  override readonly name = "EngineGoneError";
  constructor(readonly code: "engine_crashed" | "engine_closed", message: string) {
    super(message);
  }
}

interface LiveRequest {
  readonly id: string;
  readonly stream: EventStream;
}

/** An engine in a worker. */
export class WorkerEngine implements Engine {
  readonly lost: Promise<EngineErrorData>;
  readonly #lost = Promise.withResolvers<EngineErrorData>();
  readonly #port: WorkerPort;
  readonly #closeWithinMs: number;
  readonly #settleWithinMs: number;
  readonly #bell = new MessageBell();
  readonly #pulse = new Pulse();
  #watch: Disposable | undefined;
  #info: EngineInfo | null = null;
  #numKeys = 0;
  readonly #live = new Map<number, LiveRequest>();
  readonly #keys = new Map<string, number>();
  readonly #stats = new Map<number, PromiseWithResolvers<EngineStats>>();
  readonly #slots = new Map<number, PromiseWithResolvers<SlotReply>>();
  readonly #started = Promise.withResolvers<void>();
  readonly #settled = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();
  #gone: EngineGoneError | null = null;
  #closing: Promise<void> | null = null;

  private constructor(port: WorkerPort, hooks: WorkerEngineHooks) {
    this.lost = this.#lost.promise;
    this.#port = port;
    this.#closeWithinMs = hooks.closeWithinMs ?? 800;
    this.#settleWithinMs = hooks.settleWithinMs ?? 2200;
    port.onmessage = ({ data }) => this.#take(data as WorkerMessage, hooks);
    port.onmessageerror = () => this.#crash("a message of the engine worker cannot be read");
    port.onerror = (event) => {
      // Else Deno ends the whole program.
      event.preventDefault();
      this.#crash(event.message);
    };
    const { hangMs = null } = hooks;
    if (hangMs === null) return;
    // The start is work too, whether or not the worker comes as far as to say so.
    this.#pulse.work();
    this.#watchFor(hooks.startHangMs ?? Math.max(hangMs, START_HANG_MS));
    this.#started.promise.then(() => this.#watchFor(hangMs), () => {});
  }

  /**
   * Starts an engine in a worker that was just made. The worker is this engine's from here on.
   *
   * @throws {ModelFileError} If the model cannot be used.
   * @throws {DeviceError} If the device cannot be used.
   * @throws {EngineGoneError} If the worker died.
   */
  static async start(
    port: WorkerPort,
    options: EngineOptions,
    hooks: WorkerEngineHooks = {},
  ): Promise<WorkerEngine> {
    const engine = new WorkerEngine(port, hooks);
    try {
      engine.#send({
        type: "start",
        options,
        bell: engine.#bell.shared,
        pulse: engine.#pulse.shared,
      });
      await engine.#started.promise;
    } catch (error) {
      if (hooks.leaveFailed !== true) port.terminate();
      throw error;
    }
    return engine;
  }

  get info(): EngineInfo {
    if (this.#info === null) throw new Error("the engine has not started");
    return this.#info;
  }

  generate(request: GenerateRequest): AsyncIterableIterator<EngineEvent> {
    const key = this.#numKeys++;
    const stream = new EventStream(() => {
      this.#forget(key);
      this.#send({ type: "cancel", key });
    });
    const refusal = this.#refusal(request);
    if (refusal !== null) {
      stream.push({ type: "error", error: refusal });
      return stream;
    }
    this.#live.set(key, { id: request.id, stream });
    this.#keys.set(request.id, key);
    try {
      this.#send({ type: "generate", key, request });
    } catch (error) {
      // Something in it cannot be cloned.
      this.#forget(key);
      const { message } = error as Error;
      stream.push({ type: "error", error: { code: "invalid_request", message } });
    }
    return stream;
  }

  cancel(id: string): void {
    const key = this.#keys.get(id);
    if (key === undefined) return;
    this.#keys.delete(id);
    this.#send({ type: "cancel", key });
  }

  hold(id: string, held: boolean): void {
    const key = this.#keys.get(id);
    if (key !== undefined) this.#send({ type: "hold", key, held });
  }

  /** @throws {EngineGoneError} If the worker died or was closed. */
  stats(): Promise<EngineStats> {
    if (this.#gone !== null) return Promise.reject(this.#gone);
    const key = this.#numKeys++;
    const answer = Promise.withResolvers<EngineStats>();
    this.#stats.set(key, answer);
    this.#send({ type: "stats", key });
    return answer.promise;
  }

  /** @throws {EngineGoneError} If the worker died or was closed. */
  slot(request: SlotRequest): Promise<SlotReply> {
    if (this.#gone !== null) return Promise.reject(this.#gone);
    const key = this.#numKeys++;
    const answer = Promise.withResolvers<SlotReply>();
    this.#slots.set(key, answer);
    this.#send({ type: "slot", key, request });
    return answer.promise;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async settle(): Promise<void> {
    if (this.#gone !== null || this.#closing !== null) return;
    this.#send({ type: "settle" });
    const timer = setTimeout(() => this.#settled.resolve(), this.#settleWithinMs);
    await this.#settled.promise;
    clearTimeout(timer);
  }

  async #close(): Promise<void> {
    if (this.#gone === null) {
      this.#send({ type: "close" });
      // A worker that waits for the device cannot answer; nothing of it is worth waiting for.
      const timer = setTimeout(() => this.#closed.resolve(), this.#closeWithinMs);
      await this.#closed.promise;
      clearTimeout(timer);
    }
    this.#end(new EngineGoneError("engine_closed", "the engine is closed"));
    this.#port.terminate();
  }

  #refusal(request: GenerateRequest): EngineErrorData | null {
    if (this.#gone !== null) return { code: this.#gone.code, message: this.#gone.message };
    if (this.#closing !== null) return { code: "engine_closed", message: "the engine is closed" };
    if (typeof request !== "object" || request === null) {
      return { code: "invalid_request", message: "the request is no object" };
    }
    if (this.#keys.has(request.id)) {
      return { code: "invalid_request", message: `id ${request.id} is in use by a live request` };
    }
    return null;
  }

  #send(message: ClientMessage): void {
    if (this.#gone !== null) return;
    this.#port.postMessage(message);
    this.#bell.ring();
  }

  #take(message: WorkerMessage, hooks: WorkerEngineHooks): void {
    switch (message.type) {
      case "progress":
        hooks.onProgress?.(message.progress);
        break;
      case "note":
        (hooks.onNote ?? noteOnConsole)(message.note);
        break;
      case "started":
        this.#info = message.info;
        this.#started.resolve();
        break;
      case "start_failed":
        this.#started.reject(errorFromData(message.error));
        break;
      case "events":
        for (const [key, event] of message.events) this.#deliver(key, event);
        break;
      case "stats":
        this.#stats.get(message.key)?.resolve(message.stats);
        this.#stats.delete(message.key);
        break;
      case "lost":
        this.#lost.resolve(message.error);
        break;
      case "slot_done":
        this.#slots.get(message.key)?.resolve(message.reply);
        this.#slots.delete(message.key);
        break;
      case "slot_failed":
        this.#slots.get(message.key)?.reject(errorFromData(message.error));
        this.#slots.delete(message.key);
        break;
      case "settled":
        this.#settled.resolve();
        break;
      case "closed":
        this.#closed.resolve();
        break;
      default:
        message satisfies never;
    }
  }

  /** Events of a request that nobody reads any more fall away here. */
  #deliver(key: number, event: EngineEvent): void {
    const live = this.#live.get(key);
    if (live === undefined) return;
    if (event.type === "done" || event.type === "error") this.#forget(key);
    live.stream.push(event);
  }

  #forget(key: number): void {
    const live = this.#live.get(key);
    if (live === undefined) return;
    this.#live.delete(key);
    if (this.#keys.get(live.id) === key) this.#keys.delete(live.id);
  }

  #watchFor(hangMs: number): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = watchPulse(this.#pulse, hangMs, () => {
      this.#crash(`nothing was completed for ${hangMs / 1000} s`, "seems to hang");
    });
  }

  #crash(reason: string, what = "died"): void {
    // Not in `#end()`: an engine that was closed is not lost.
    const error = new EngineGoneError("engine_crashed", `the engine worker ${what}: ${reason}`);
    if (this.#gone === null) this.#lost.resolve({ code: error.code, message: error.message });
    this.#end(error);
    this.#port.terminate();
  }

  /** Whatever is still waited for gets this error. */
  #end(error: EngineGoneError): void {
    if (this.#gone !== null) return;
    this.#gone = error;
    this.#watch?.[Symbol.dispose]();
    const { code, message } = error;
    for (const key of [...this.#live.keys()]) {
      this.#deliver(key, { type: "error", error: { code, message } });
    }
    for (const answer of this.#stats.values()) answer.reject(error);
    this.#stats.clear();
    for (const answer of this.#slots.values()) answer.reject(error);
    this.#slots.clear();
    this.#started.reject(error);
    // After a start that worked nobody looks at it.
    this.#started.promise.catch(() => {});
    this.#settled.resolve();
    this.#closed.resolve();
  }
}
