/** Starts the engine. @module */
import { WORKERS } from "../assets.ts";
import type { Engine, EngineNote, EngineOptions, LoadProgress } from "./types.ts";
import { WorkerEngine } from "./worker_client.ts";

/** How an engine is started beside its options. */
export interface StartHooks {
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Told of what belongs to no request; the console, unless it is said. */
  readonly onNote?: (note: EngineNote) => void;
  /**
   * Run in this isolate. It is blocked while the device works, so this is for tests and for
   * commands that do nothing else meanwhile.
   */
  readonly inProcess?: boolean;
  /** How long an engine in a worker may complete nothing before it counts as lost; null: for ever. */
  readonly hangMs?: number | null;
  /** The process ends where the start fails, and a worker that cannot start is left to that. */
  readonly leaveFailed?: boolean;
}

/**
 * Starts an engine in a worker of its own.
 *
 * @throws {ModelFileError} If the model cannot be used.
 * @throws {DeviceError} If there is no device, or not one that is good enough.
 * @throws {EngineGoneError} If the worker died while starting.
 */
export async function startEngine(
  options: EngineOptions,
  hooks: StartHooks = {},
): Promise<Engine> {
  const { onProgress = () => {}, onNote, hangMs = null, leaveFailed = false } = hooks;
  if (hooks.inProcess) {
    // Loaded here only, so that the main isolate does not carry the device's side otherwise.
    const { createLocalEngine } = await import("./create.ts");
    return await createLocalEngine(options, onProgress, onNote);
  }
  const worker = new Worker(WORKERS.engine, { type: "module", name: "engine" });
  return await WorkerEngine.start(worker, options, {
    onProgress,
    hangMs,
    leaveFailed,
    ...(onNote === undefined ? {} : { onNote }),
  });
}
