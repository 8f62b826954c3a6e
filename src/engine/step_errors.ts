/** What a request is told when a step of it failed. @module */
import { DeviceError } from "../gpu/device.ts";
import { StoreFullError, StoreReadError } from "../kv/store/errors.ts";
import type { EngineErrorData } from "./types.ts";

/** An error as data. */
export function stepError(error: unknown): EngineErrorData {
  const full = error instanceof StoreFullError ||
    (error instanceof DeviceError && error.code === "out_of_memory");
  return { code: full ? "out_of_memory" : "internal", message: messageOf(error) };
}

/** The error of an engine that takes nothing in any more, to be thrown. */
export function goneError({ code, message }: EngineErrorData): Error {
  return Object.assign(new Error(message), { code });
}

/** What an error says. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Whether an error is one that a machine may always come to: no fault of the program. */
export function isExpected(error: unknown): boolean {
  return error instanceof DeviceError || error instanceof StoreFullError ||
    error instanceof StoreReadError;
}
