/** Errors of the tiers below the device. @module */

/** Neither host memory nor disk has room for a block. The message names the flags that give more. */
export class StoreFullError extends Error {
  override readonly name = "StoreFullError";
}

/** A block cannot be read back as it was written: its file is gone, cut short or damaged. */
export class StoreReadError extends Error {
  override readonly name = "StoreReadError";
}

/** A folder that a flag names cannot be made, listed or written to. The message names the flag. */
export class StoreFolderError extends Error {
  override readonly name = "StoreFolderError";
  /** `full`: for want of room alone, which may come back. */
  readonly code: "full" | "unusable";

  constructor(what: string, flag: string, reason: string, cause: unknown) {
    super(`${what} cannot be used: ${reason}. Name one that can be written to with ${flag}.`, {
      cause,
    });
    const system = cause instanceof Error && "code" in cause ? cause.code : undefined;
    this.code = system === "ENOSPC" || system === "EDQUOT" ? "full" : "unusable";
  }
}

/**
 * The error of a full store.
 *
 * @param hostBlocks - Blocks that host memory holds.
 * @param disk - The tier below it, and what the system last said when it refused to write.
 */
export function fullError(
  blockBytes: number,
  hostBlocks: number,
  disk: { readonly capacity: number; readonly lastRefusal: string | null } | null,
): StoreFullError {
  if (disk === null) {
    return new StoreFullError(
      "host memory has no room for more rows of the KV cache " +
        `(${hostBlocks} blocks of ${blockBytes} bytes). Give more with --kv-host, or a folder ` +
        "for what does not fit with --kv-disk.",
    );
  }
  const refusal = disk.lastRefusal === null ? "" : `; the disk last refused: ${disk.lastRefusal}`;
  return new StoreFullError(
    "neither host memory nor disk has room for more rows of the KV cache " +
      `(${hostBlocks} and ${disk.capacity} blocks of ${blockBytes} bytes${refusal}). Give more ` +
      "with --kv-host or --kv-disk-size, or another folder with --kv-disk.",
  );
}

/** @throws {Error} If something that must hold does not. */
export function assertStore(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`row store: ${message}`);
}

/** What can be wrong with a conversation that is to be saved, restored or erased. */
export type SlotErrorCode =
  | "slot_name"
  | "slot_unknown"
  | "slot_busy"
  | "slot_empty"
  | "slot_no_room"
  | "slot_folder_missing"
  | "slot_folder_full"
  | "slot_file_missing"
  | "slot_file_damaged"
  | "slot_file_foreign"
  | "slot_file_too_long"
  | "slot_file_unwritable";

/** A conversation that cannot be saved, restored or erased. The message has no path. */
export class SlotError extends Error {
  override readonly name = "SlotError";

  constructor(readonly code: SlotErrorCode, message: string, cause?: unknown) {
    super(message, { cause });
  }
}
