/** Errors of the tiers below the device. @module */

/** Neither host memory nor disk has room for a block. The message names the flags that give more. */
export class StoreFullError extends Error {
  override readonly name = "StoreFullError";
}

/** A block cannot be read back as it was written: its file is gone, cut short or damaged. */
export class StoreReadError extends Error {
  override readonly name = "StoreReadError";
}
