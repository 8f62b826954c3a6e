/** The flags of `serve` about slots. @module */
import type { TierOptions } from "../engine/types.ts";
import { type Settings, triStateFlag, UsageError, valueFlag } from "./flags.ts";
import { sizeBytes, text } from "./values.ts";

const group = "Slots";

/** What is shown of slots, and where their conversations are saved. */
export const slotFlags = {
  slots: triStateFlag({
    group,
    help: "GET /slots shows what runs where, without any text; POST /slots/{id} saves, restores " +
      "and erases the rows of a conversation",
    fallbackText: "on",
  }),
  slotDir: valueFlag({
    group,
    help: "folder for conversations that are saved with POST /slots/{id}?action=save",
    placeholder: "DIR",
    aliases: ["slot-save-path"],
    schema: text,
    fallback: null,
  }),
  slotDirSize: valueFlag({
    group,
    help: "size of what lies there at most; nothing is removed to make room",
    placeholder: "SIZE",
    schema: sizeBytes(1),
    fallback: null,
    fallbackText: "64GiB",
  }),
} as const;

/**
 * Where conversations are saved.
 *
 * @throws {UsageError} For a folder that could not be used, or a size of none.
 */
export function slotOptions(
  { slots, slotDir, slotDirSize, prefixCache }:
    & Settings<typeof slotFlags>
    & { readonly prefixCache: boolean | null },
): Pick<TierOptions, "slotDir" | "slotBytes"> {
  if (slotDirSize !== null && slotDir === null) {
    throw new UsageError("--slot-dir-size needs --slot-dir, the folder that it is the size of");
  }
  if (slotDir !== null && slots === false) {
    throw new UsageError("--slot-dir and --no-slots exclude each other");
  }
  if (slotDir !== null && prefixCache === false) {
    throw new UsageError("--slot-dir and --no-prefix-cache exclude each other");
  }
  return { slotDir, slotBytes: slotDirSize };
}
