/** Prompt rows whose attention is kept, for policies that rank rows by what they receive. @module */
import type { Policy } from "./types.ts";

/** Rows of the prompt's end whose attention SnapKV looks at; a smaller window has fewer. */
export const SNAPKV_OBSERVERS = 32;

/**
 * Prompt rows whose attention counts: the newest ones of the rows that are prefilled in all. Null for
 * policies that keep no attention.
 *
 * @param window Rows of the window, in which those of `snapkv` lie.
 */
export function observedRows(policy: Policy, window: number, total: number): number | null {
  if (policy.store !== "mass") return null;
  return policy.once ? Math.min(SNAPKV_OBSERVERS, window, total) : total;
}
