/** The tiers below the device, from an engine's options. @module */
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import { createHash } from "node:crypto";
import { Conversations } from "../kv/store/conversations.ts";
import { type FileOps, systemFiles } from "../kv/store/file_ops.ts";
import { sizesOf } from "../kv/store/sizes.ts";
import { DEFAULT_SLOT_BYTES, SlotFolder } from "../kv/store/slot_folder.ts";
import { RowStore } from "../kv/store/row_store.ts";
import type { KvStore, StoreOptions } from "../kv/store/types.ts";
import type { ModelConfig } from "../model/types.ts";
import { availableHostMemory } from "./host_memory.ts";
import type { EngineOptions, TierOptions } from "./types.ts";

/** Host memory for rows where the system does not say how much there is. */
const USUAL_HOST_BYTES = 4 * 2 ** 30;

/** Disk for rows where nobody says how much may be used. */
const USUAL_DISK_BYTES = 64 * 2 ** 30;

/** Host memory that rows may take: what was asked for, else a quarter of what the machine has left. */
export function hostBytesOf({ hostBytes }: TierOptions): number {
  if (hostBytes !== null) return hostBytes;
  const available = availableHostMemory();
  return available === null ? USUAL_HOST_BYTES : Math.floor(available / 4);
}

/** Bytes that files of rows may take; 0 without a folder. */
export function diskBytesOf({ diskDir, diskBytes }: TierOptions): number {
  return diskDir === null ? 0 : diskBytes ?? USUAL_DISK_BYTES;
}

/** What stands in for the system below a store, for tests that order faults. */
export type StoreSystem = Pick<StoreOptions, "files" | "allocate">;

/**
 * Opens the store of an engine.
 *
 * @param contextLength Of the engine, where angles follow from it.
 * @param onWarning Told of what a person should know.
 * @param system Instead of files and memory.
 * @throws {StoreFolderError} If a folder cannot be used; the message names the flag.
 */
export function openStore(
  options: Pick<EngineOptions, "tiers" | "kvType">,
  config: ModelConfig,
  fingerprint: string,
  contextLength: number,
  onWarning: (message: string) => void,
  system: StoreSystem = {},
): KvStore {
  const { tiers, kvType } = options;
  const { numLayers, numKvHeads, headDim } = config;
  return new RowStore({
    shape: { numLayers, numKvHeads, headDim, bytesPerValue: kvType === "f16" ? 2 : 4 },
    // Rows depend on the length of the context where the angles do.
    fingerprint: `${fingerprint} ${contextLength}`,
    hostBytes: hostBytesOf(tiers),
    disk: tiers.diskDir === null ? null : { dir: tiers.diskDir, bytes: diskBytesOf(tiers) },
    prefixDir: tiers.prefixDir,
    ...(tiers.prefixBytes === undefined ? {} : { prefixBytes: tiers.prefixBytes }),
    onWarning,
    ...system,
  });
}

/**
 * Opens the conversations of a store.
 *
 * @throws {StoreFolderError} If the folder cannot be used; the message names the flag.
 */
export function openConversations(
  store: KvStore,
  { slotDir, slotBytes }: TierOptions,
  files: FileOps = systemFiles,
): Conversations {
  if (slotDir === undefined || slotDir === null) return new Conversations(store, null);
  const digest = createHash("sha256").update(store.fingerprint).digest();
  const most = slotBytes ?? DEFAULT_SLOT_BYTES;
  return new Conversations(
    store,
    new SlotFolder(sizesOf(store.shape), digest, files, slotDir, most),
  );
}

/** Time that a process which ends takes for prefixes that are not saved yet. */
const SAVE_WITHIN_MS = 1500;

/** Closes a store for a process that has to end soon. */
export function closeStore(
  store: KvStore,
  onWarning: (message: string) => void,
  withinMs = SAVE_WITHIN_MS,
): void {
  const giveUpAt = performance.now() + withinMs;
  while (store.savePrefixes(1) > 0 && performance.now() < giveUpAt);
  const left = store.skipSaving();
  if (left > 0) onWarning(`${left} blocks of prompts were not saved: there was no time for them`);
  store[Symbol.dispose]();
}

/** Rows of a sequence that the tiers below the device have room for. */
export function storedRows(store: KvStore): number {
  return store.usage.capacityBlocks * BLOCK_ROWS;
}
