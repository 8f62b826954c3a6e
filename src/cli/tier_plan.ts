/** How the rows of one sequence would lie in the tiers, for `doctor`. Pure. @module */
import { importanceWords } from "../butler/importance_store.ts";
import { POLICIES } from "../butler/policies/mod.ts";
import type { KvSettings } from "../butler/settings_types.ts";
import { mostListRows } from "../butler/slots.ts";
import { scoreStride } from "../gpu/ops/list_params.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import { selectionStride } from "../gpu/ops/selection.ts";
import { READ_BYTES } from "../kv/block_reader.ts";
import {
  type DeviceTierOptions,
  kvBytesPerRow,
  planSlabs,
  type SlabPlan,
} from "../kv/device_tier.ts";
import { fitsDevice, refusalOf } from "../kv/refusal.ts";
import { FETCH_BYTES } from "../kv/row_fetcher.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import { stageBlocks } from "../kv/stage.ts";
import { sizesOf } from "../kv/store/sizes.ts";
import { planWorkingSet } from "../kv/working_set.ts";
import type { ModelConfig } from "../model/types.ts";

/** Sizes in bytes, lengths in rows. */
export interface TierPlan {
  /** Every row is on the device. */
  readonly whole: boolean;
  /** Why the sequence cannot run; null if it can. Then the sizes below are 0. */
  readonly refusal: string | null;
  /** Keys and values on the device. */
  readonly device: {
    readonly capacity: number;
    /** Of a sequence that is there as a whole. */
    readonly all: number;
    /** Of any other: layers that attend to everything; of the rest sinks, window, fetched rows. */
    readonly dense: number;
    readonly sinks: number;
    readonly window: number;
    readonly slots: number;
  };
  /** Device memory beside keys and values. */
  readonly beside: {
    readonly importance: number;
    /** Page tables and lists of chosen rows. */
    readonly maps: number;
    /** What scores are made in. */
    readonly scores: number;
    /** What blocks and rows pass through. */
    readonly staging: number;
  };
  /** Keys and values below the device. */
  readonly host: { readonly capacity: number; readonly used: number };
  readonly disk: { readonly capacity: number; readonly used: number };
  /** Sequences up to this lie on the device as a whole. */
  readonly wholeRows: number;
  /** The longest sequence that runs under these settings. */
  readonly longestRows: number;
}

/** Room below the device. */
export interface LowerTiers {
  readonly hostBytes: number;
  /** 0 without a folder. */
  readonly diskBytes: number;
}

/** Rows that lists have room for at least. */
const LEAST_LIST = 256;

/**
 * Works out where the rows of a sequence of `options.contextLength` tokens would lie.
 *
 * @param settingsOf Settings of a sequence that fits the device as a whole, or does not.
 * @param maxBindingSize Of the adapter.
 * @param tried What the device has room for; null: as much as its limits allow.
 */
export function tierPlan(
  config: ModelConfig,
  options: DeviceTierOptions,
  lower: LowerTiers,
  settingsOf: (fits: boolean) => KvSettings,
  maxBindingSize: number,
  importanceKeys: ImportanceKeys = "f16",
  tried: SlabPlan | null = null,
): TierPlan {
  const { kvType, contextLength } = options;
  const { numLayers, numKvHeads, headDim } = config;
  const sizes = sizesOf({
    numLayers,
    numKvHeads,
    headDim,
    bytesPerValue: kvType === "f16" ? 2 : 4,
  });
  const partBytes = BLOCK_ROWS * kvBytesPerRow(config, kvType);
  const slabs = tried ?? planSlabs(config, options, maxBindingSize);
  const hostBlocks = Math.floor(lower.hostBytes / sizes.block);
  const diskBlocks = Math.floor(lower.diskBytes / sizes.file);
  const capacity = { ...slabs, capacityBlocks: hostBlocks + diskBlocks, partBytes };
  const whole = fitsDevice(contextLength, capacity);
  const settings = settingsOf(whole);
  const need = { settings, maxRows: contextLength };
  const refusal = refusalOf(need, capacity);
  const pages = slabs.slabPages.reduce((sum, count) => sum + count, 0);
  const wholeRows = slabs.numBlocks * BLOCK_ROWS;
  const below = { settings: settingsOf(false), maxRows: wholeRows + 1 };
  const runsBelow = planWorkingSet(below, slabs.layerSlab, slabs.slabPages) !== null;
  const runs = refusal === null;
  const blocks = runs && !whole ? Math.floor(contextLength / BLOCK_ROWS) : 0;
  const inHost = Math.min(blocks, hostBlocks);
  return {
    whole,
    refusal,
    device: {
      capacity: pages * partBytes,
      all: whole ? Math.ceil(contextLength / BLOCK_ROWS) * numLayers * partBytes : 0,
      ...deviceParts(need, slabs, partBytes, runs && !whole),
    },
    beside: runs
      ? beside(config, kvType, importanceKeys, settings, contextLength, whole, partBytes)
      : { importance: 0, maps: 0, scores: 0, staging: 0 },
    host: { capacity: hostBlocks * sizes.block, used: inHost * sizes.block },
    disk: { capacity: diskBlocks * sizes.file, used: (blocks - inHost) * sizes.file },
    wholeRows,
    longestRows: runsBelow ? Math.max(wholeRows, capacity.capacityBlocks * BLOCK_ROWS) : wholeRows,
  };
}

function deviceParts(
  need: { readonly settings: KvSettings; readonly maxRows: number },
  { layerSlab, slabPages }: ReturnType<typeof planSlabs>,
  partBytes: number,
  partly: boolean,
): { dense: number; sinks: number; window: number; slots: number } {
  const parts = { dense: 0, sinks: 0, window: 0, slots: 0 };
  if (!partly) return parts;
  planWorkingSet(need, layerSlab, slabPages)!.forEach((set, layer) => {
    const dense = need.settings.layers[layer]!.role === "dense";
    if (dense) parts.dense += (set.prefixBlocks + set.windowBlocks) * partBytes;
    else {
      parts.sinks += set.prefixBlocks * partBytes;
      parts.window += set.windowBlocks * partBytes;
    }
    parts.slots += set.slotPages * partBytes;
  });
  return parts;
}

/** Device memory of one sequence that holds no keys and values. */
function beside(
  { numLayers, numKvHeads, headDim }: ModelConfig,
  kvType: "f16" | "f32",
  keys: ImportanceKeys,
  settings: KvSettings,
  contextLength: number,
  whole: boolean,
  partBytes: number,
): TierPlan["beside"] {
  const blocks = Math.ceil(contextLength / BLOCK_ROWS);
  const { store } = POLICIES[settings.policy];
  const tables = (numLayers + (store === "none" ? 0 : 1)) * blocks * 4;
  // Dense attention over rows that are all there needs nothing else.
  const selects = settings.policy !== "dense" || !whole;
  const capacity = Math.max(LEAST_LIST, mostListRows(settings, contextLength, !whole));
  const lists = selectionStride(numKvHeads, capacity) + numKvHeads * (capacity + 1);
  const pageBytes = numKvHeads * importanceWords({ headDim, kvType, keys }) * 4;
  return {
    importance: store === "none" ? 0 : numLayers * blocks * pageBytes,
    maps: tables + (selects ? numLayers * lists * 4 : 0),
    scores: selects ? 3 * numKvHeads * scoreStride(contextLength) * 4 : 0,
    staging: whole ? 0 : stageBlocks(partBytes, blocks) * partBytes + FETCH_BYTES + READ_BYTES,
  };
}
