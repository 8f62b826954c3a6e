/** A loaded model with its text side, as the commands use it. @module */
import { startEngine } from "../engine/start.ts";
import type { Engine, EngineNote, EngineOptions } from "../engine/types.ts";
import type { ServedModel } from "../server/served_model.ts";
import { type CliIo, isDebug } from "./io.ts";
import { loadProgress } from "./progress.ts";
import { openTextSide, type TextUse } from "./text_side.ts";

/** What a command with a model works on. Close it. */
export interface Session extends ServedModel {
  /**
   * Ends the text side and settles the engine. Its device is left to the end of the process, which
   * follows at once: an engine that is being closed unloads the driver, and a process that exits
   * meanwhile runs the exit handlers of a library that is gone. The same goes for a device that
   * works: end what runs first.
   */
  close(): Promise<void>;
}

/** Opens a session; tests put a fake in its place. */
export type OpenSession = (options: EngineOptions, io: CliIo, use: TextUse) => Promise<Session>;

/** Starts an engine; tests put a fake in its place. */
export type OpenEngine = (
  options: EngineOptions,
  io: CliIo,
  /** Milliseconds without progress after which it counts as lost; null or absent: never. */
  hangMs?: number | null,
) => Promise<Engine>;

/** Writes what an engine says as messages for people, with the stack of an error where it is asked for. */
export function noteTo(io: CliIo): (note: EngineNote) => void {
  return ({ level, message, stack }) =>
    io.stderr(`${level}: ${isDebug(io) ? stack ?? message : message}\n`);
}

/**
 * Starts the engine in its worker, with progress on a terminal, and prints its notes. A command that
 * gets none ends, and the process with it.
 */
export const openEngine: OpenEngine = async (options, io, hangMs = null) => {
  const progress = loadProgress(io);
  let engine: Engine;
  try {
    engine = await startEngine(options, {
      onProgress: (step) => progress.report(step),
      onNote: noteTo(io),
      hangMs,
      leaveFailed: true,
    });
  } finally {
    progress.stop();
  }
  for (const note of engine.info.notes) io.stderr(`note: ${note}\n`);
  return engine;
};

/** Opens an engine and the text side of its model. */
export const openSession: OpenSession = async (options, io, use) => {
  // First the text side: a file that is no model shows before a device is opened for it.
  const { tokenizer, endIds, template } = await openTextSide(options.modelPath, use);
  try {
    const engine = await openEngine(options, io);
    return {
      engine,
      tokenizer,
      endIds,
      template,
      close: () => {
        template?.close();
        return engine.settle();
      },
    };
  } catch (error) {
    template?.close();
    throw error;
  }
};
