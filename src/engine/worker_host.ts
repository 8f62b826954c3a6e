/** The worker's end of the protocol. @module */
import { onCompletion } from "../gpu/completions.ts";
import type { LocalEngine, Submitted } from "./local_engine.ts";
import {
  type ClientMessage,
  errorToData,
  type KeyedEvent,
  type WorkerMessage,
} from "./protocol.ts";
import { Pulse } from "./pulse.ts";
import { bellTurn, MessageBell } from "./turn.ts";
import type { EngineNote, EngineOptions, LoadProgress } from "./types.ts";

/** What a worker needs of its global scope. */
export interface WorkerScope {
  onmessage: ((event: MessageEvent<ClientMessage>) => void) | null;
  postMessage(message: WorkerMessage): void;
}

/** Makes an engine in this isolate. */
export type CreateEngine = (
  options: EngineOptions,
  onProgress: (progress: LoadProgress) => void,
  onNote: (note: EngineNote) => void,
) => Promise<LocalEngine>;

/** Answers a client's messages with an engine that is made when it says so. */
export function serveEngine(scope: WorkerScope, create: CreateEngine): void {
  let engine: LocalEngine | null = null;
  let numReceived = 0;
  const live = new Map<number, Submitted>();
  let batch: KeyedEvent[] = [];

  const flush = () => {
    const events = batch;
    batch = [];
    scope.postMessage({ type: "events", events });
  };

  // The events of a step come without a pause between them, so that they share a message.
  const emit = (key: number, event: KeyedEvent[1]) => {
    if (event.type === "done" || event.type === "error") live.delete(key);
    if (batch.push([key, event]) === 1) queueMicrotask(flush);
  };

  const close = async () => {
    await engine?.close();
    scope.postMessage({ type: "closed" });
  };

  const settle = async () => {
    await engine?.settle();
    scope.postMessage({ type: "settled" });
  };

  const start = async (options: EngineOptions, bell: MessageBell, pulse: Pulse) => {
    onCompletion(() => pulse.beat());
    try {
      const created = await create(
        options,
        (progress) => {
          pulse.beat();
          scope.postMessage({ type: "progress", progress });
        },
        (note) => scope.postMessage({ type: "note", note }),
      );
      created.setTurn(bellTurn(bell, () => numReceived), pulse);
      pulse.rest();
      engine = created;
      created.lost.then((error) => scope.postMessage({ type: "lost", error }));
      scope.postMessage({ type: "started", info: created.info });
    } catch (error) {
      scope.postMessage({ type: "start_failed", error: errorToData(error) });
    }
  };

  scope.onmessage = ({ data: message }) => {
    numReceived++;
    switch (message.type) {
      case "start":
        start(message.options, new MessageBell(message.bell), new Pulse(message.pulse));
        break;
      case "generate": {
        const { key, request } = message;
        if (engine === null) {
          emit(key, { type: "error", error: { code: "internal", message: "not started" } });
          break;
        }
        let ended = false;
        const submitted = engine.submit(request, (event) => {
          ended = event.type === "done" || event.type === "error";
          emit(key, event);
        });
        if (!ended) live.set(key, submitted);
        break;
      }
      case "cancel":
        live.get(message.key)?.cancel();
        break;
      case "hold":
        live.get(message.key)?.hold(message.held);
        break;
      case "stats": {
        const { key } = message;
        engine?.stats().then((stats) => scope.postMessage({ type: "stats", key, stats }));
        break;
      }
      case "slot": {
        const { key, request } = message;
        const failed = (error: unknown) =>
          scope.postMessage({ type: "slot_failed", key, error: errorToData(error) });
        engine?.slot(request).then(
          (reply) => scope.postMessage({ type: "slot_done", key, reply }),
          failed,
        );
        break;
      }
      case "settle":
        settle();
        break;
      case "close":
        close();
        break;
      default:
        message satisfies never;
    }
  };
}
