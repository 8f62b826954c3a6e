/**
 * The messages between the engine's client and the worker that runs it: the one description of
 * what crosses the boundary. All of it is plain data.
 *
 * Requests are named by a number that the client counts up, not by their id: an id may be used
 * again while the last events of its former request are still on their way.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import { ModelFileError } from "../model/errors.ts";
import type {
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

/**
 * To the worker. `start` comes first and once; `bell` is the memory of a `MessageBell` that counts
 * what the client sends, `start` included, and `pulse` that of a `Pulse`.
 */
export type ClientMessage =
  | {
    readonly type: "start";
    readonly options: EngineOptions;
    readonly bell: SharedArrayBuffer;
    readonly pulse: SharedArrayBuffer;
  }
  | { readonly type: "generate"; readonly key: number; readonly request: GenerateRequest }
  | { readonly type: "cancel"; readonly key: number }
  | { readonly type: "hold"; readonly key: number; readonly held: boolean }
  | { readonly type: "stats"; readonly key: number }
  | { readonly type: "slot"; readonly key: number; readonly request: SlotRequest }
  | { readonly type: "settle" }
  | { readonly type: "close" };

/** An event and the number of the request that it belongs to. */
export type KeyedEvent = readonly [key: number, event: EngineEvent];

/** From the worker. `started` or `start_failed` answers `start`; `closed` is the last one. */
export type WorkerMessage =
  | { readonly type: "progress"; readonly progress: LoadProgress }
  | { readonly type: "note"; readonly note: EngineNote }
  | { readonly type: "started"; readonly info: EngineInfo }
  | { readonly type: "start_failed"; readonly error: ErrorData }
  | { readonly type: "events"; readonly events: readonly KeyedEvent[] }
  | { readonly type: "stats"; readonly key: number; readonly stats: EngineStats }
  | { readonly type: "lost"; readonly error: EngineErrorData }
  | { readonly type: "slot_done"; readonly key: number; readonly reply: SlotReply }
  | { readonly type: "slot_failed"; readonly key: number; readonly error: ErrorData }
  | { readonly type: "settled" }
  | { readonly type: "closed" };

/** An error as data. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  readonly code: string | null;
  /** File or folder of a `ModelFileError`. */
  readonly path: string | null;
}

/** Takes an error apart for the way across. */
export function errorToData(error: unknown): ErrorData {
  if (!(error instanceof Error)) {
    return { name: "Error", message: String(error), code: null, path: null };
  }
  const { code, path } = error as { code?: unknown; path?: unknown };
  return {
    name: error.name,
    message: error.message,
    code: typeof code === "string" ? code : null,
    path: typeof path === "string" ? path : null,
  };
}

/** An error of the other side that has no class of its own here. */
class RemoteError extends Error {
  override readonly name: string;
  readonly code: string | null;
  constructor(data: ErrorData) {
    super(data.message);
    this.name = data.name;
    this.code = data.code;
  }
}

/** Makes an error of the class it had, with its code and message. */
export function errorFromData(data: ErrorData): Error {
  if (data.name === "ModelFileError" && data.code !== null) {
    return new ModelFileError(data.code as ModelFileError["code"], data.path ?? "", data.message);
  }
  if (data.name === "DeviceError" && data.code !== null) {
    return new DeviceError(data.code as DeviceError["code"], data.message);
  }
  return new RemoteError(data);
}
