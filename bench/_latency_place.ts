/**
 * Where the rows of a measured sequence are: all of them on the device, or a working set there and
 * everything on the host. One sequence, in slot 0, that is put back to where it began for every turn.
 *
 * @module
 */
import { type KvRequest, type KvSettings, meanBudget, resolveKv } from "../src/butler/settings.ts";
import type { CliIo } from "../src/cli/io.ts";
import type { engineFlags } from "../src/cli/model_flags.ts";
import type { Settings } from "../src/cli/flags.ts";
import { kvBytesPerRow } from "../src/kv/device_tier.ts";
import { BLOCK_ROWS } from "../src/kv/slab_pool.ts";
import { TieredCache } from "../src/kv/tiered_cache.ts";
import type { SequenceNeed } from "../src/kv/types.ts";
import { type LayerSet, pagesOf, wholeListsSet, wishedSet } from "../src/kv/working_set.ts";
import type { ModelConfig } from "../src/model/types.ts";
import { type CapturedRows, placeRows, storeRows } from "./_rows.ts";
import { openSubject, type Subject, textIds } from "./_subject.ts";

/** Both places, in the order of the table. */
export const PLACE_NAMES = ["device", "offload"] as const;
/** A place. */
export type PlaceName = (typeof PLACE_NAMES)[number];

/** The one slot. */
export const SLOT = 0;

/** An engine with a sequence in it. */
export interface Place extends Disposable {
  readonly name: PlaceName;
  readonly subject: Subject;
  /** Bytes of rows on the device at most; null: all of them. */
  readonly poolBytes: number | null;
  /** Gives the sequence rows 0 .. numRows - 1. */
  fill(rows: CapturedRows, need: SequenceNeed): Promise<void>;
  /**
   * Makes a sequence that was filled ready to decode its next row under other settings.
   *
   * @throws {Error} If the engine cannot run them.
   */
  begin(need: SequenceNeed): Promise<void>;
}

/** An engine whose device holds the longest context. */
export async function openDevicePlace(
  settings: Settings<typeof engineFlags>,
  io: CliIo,
  maxRows: number,
): Promise<Place> {
  const subject = await openSubject({ ...settings, kvDevice: null }, io, 1, maxRows);
  const { parts } = subject;
  return {
    name: "device",
    subject,
    poolBytes: null,
    fill(rows, need) {
      parts.kv.release(SLOT);
      parts.kv.begin(SLOT, need);
      parts.kv.reserve(SLOT, need.maxRows);
      placeRows(parts, rows, SLOT, 0, Math.ceil(need.numRows / BLOCK_ROWS));
      return Promise.resolve();
    },
    async begin(need) {
      // The rows stay where they are: only what a policy keeps of them is made anew.
      parts.runner.end(SLOT);
      await parts.runner.begin(SLOT, need);
      await parts.runner.adopt(SLOT, need.numRows);
    },
    [Symbol.dispose]: () => subject[Symbol.dispose](),
  };
}

/**
 * An engine whose device holds a working set.
 *
 * @returns Why there can be none: the engine has no tiers, or the working set would be everything.
 */
export async function openOffloadPlace(
  settings: Settings<typeof engineFlags>,
  io: CliIo,
  poolBytes: number,
  maxRows: number,
): Promise<Place | string> {
  const subject = await openSubject({ ...settings, kvDevice: poolBytes }, io, 1, maxRows);
  const { parts } = subject;
  const kv: unknown = parts.kv;
  if (!(kv instanceof TieredCache) || kv.fitsDevice(maxRows)) {
    subject[Symbol.dispose]();
    return kv instanceof TieredCache
      ? `${maxRows} rows fit ${poolBytes} bytes on the device`
      : "this engine keeps all rows on the device";
  }
  let rows: CapturedRows | null = null;
  let keys: readonly string[] = [];
  return {
    name: "offload",
    subject,
    poolBytes,
    fill(captured, { numRows }) {
      rows = captured;
      kv.release(SLOT);
      const numBlocks = Math.floor(numRows / BLOCK_ROWS);
      const ids = textIds(subject, 0, numBlocks * BLOCK_ROWS);
      keys = storeRows(kv.store, captured, numBlocks, ids);
      return Promise.resolve();
    },
    async begin(need) {
      if (rows === null) throw new Error("the sequence has no rows yet");
      kv.release(SLOT);
      kv.begin(SLOT, need);
      const stored = kv.store.adoptPrefix(keys);
      kv.attach(SLOT, stored);
      if (stored.numBlocks < keys.length) throw new Error("host memory has no room for the rows");
      kv.offloaded(SLOT)!.extend(need.numRows);
      placeRows(parts, rows, SLOT, 0, Math.ceil(need.numRows / BLOCK_ROWS));
      await parts.runner.begin(SLOT, need);
      await parts.runner.adopt(SLOT, need.numRows);
    },
    [Symbol.dispose]: () => subject[Symbol.dispose](),
  };
}

/** What a turn asks for: settings of a policy over those of the command line. */
export function settingsOf(
  base: KvRequest,
  over: KvRequest,
  { parts, config }: Subject,
): KvSettings {
  return resolveKv({ ...base, ...over }, config, { ...parts.info.kv, fits: true }).settings;
}

/**
 * Bytes on the device for the measured cases: what a sequence under a selection likes to have (dense
 * layers whole, of the others sinks, window and twice the rows that they choose), and at least so
 * much that in no case chosen rows pass through for want of slots; null if that is all there is.
 *
 * @param selection The selection that `need` is about.
 * @param cases Settings of what is measured.
 */
export function poolBytes(
  selection: SequenceNeed,
  cases: readonly KvSettings[],
  config: ModelConfig,
  kvType: "f16" | "f32",
): number | null {
  const { settings, maxRows } = selection;
  const total = (sets: readonly LayerSet[]) => sets.reduce((sum, set) => sum + pagesOf(set), 0);
  const pages = Math.max(
    total(wishedSet(selection)),
    ...cases.filter(({ layers }) => layers.some(({ role }) => role === "selected"))
      .map((of) => total(wholeListsSet({ ...selection, settings: of }))),
  );
  const all = Math.ceil(maxRows / BLOCK_ROWS) * config.numLayers;
  const { sinks, window } = settings;
  if (pages >= all || sinks + window + meanBudget(settings, maxRows) >= maxRows) return null;
  return pages * BLOCK_ROWS * kvBytesPerRow(config, kvType);
}
