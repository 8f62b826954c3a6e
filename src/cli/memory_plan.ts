/** What a model needs of a device's memory, for `doctor`. @module */
import {
  type DeviceTierOptions,
  kvBytesPerToken,
  planSlabs,
  type SlabPlan,
} from "../kv/device_tier.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import type { ModelConfig } from "../model/types.ts";

/** Sizes in bytes, lengths in tokens. */
export interface MemoryPlan {
  readonly weightsBytes: number;
  /** Keys and values of one token in all layers. */
  readonly kvBytesPerToken: number;
  /** The whole KV cache, as an engine with these options would make it. */
  readonly kvBytes: number;
  /** Tokens that a sequence would have. */
  readonly contextLength: number;
  /** Tokens that the adapter's limits would allow on the device, whatever was asked for. */
  readonly largestContext: number;
  /** What a person should know. */
  readonly notes: readonly string[];
}

/** What an adapter allows. */
export interface AdapterLimits {
  readonly maxBindingSize: number;
  /** Tokens that its kernels can go through. */
  readonly contextLimit: number;
}

/** No context is as long as this. */
const ANY_LENGTH = 2 ** 30;

/**
 * Works a plan out.
 *
 * @param tried What the device has room for. Without it memory that others hold is not in the plan:
 *   it cannot be known.
 */
export function memoryPlan(
  source: { readonly config: ModelConfig; readonly sizeBytes: number },
  options: DeviceTierOptions,
  { maxBindingSize, contextLimit }: AdapterLimits,
  tried: SlabPlan | null = null,
): MemoryPlan {
  const { config } = source;
  const perToken = kvBytesPerToken(config, options.kvType);
  const plan = (contextLength: number, numSlots: number, more: Partial<DeviceTierOptions> = {}) =>
    planSlabs(
      config,
      { ...options, ...more, contextLength: Math.min(contextLength, contextLimit), numSlots },
      maxBindingSize,
    );
  const pages = tried ?? plan(options.contextLength, options.numSlots);
  const most = plan(ANY_LENGTH, 1, { deviceBytes: null });
  return {
    weightsBytes: source.sizeBytes,
    kvBytesPerToken: perToken,
    kvBytes: pages.numBlocks * BLOCK_ROWS * perToken,
    contextLength: Math.min(options.contextLength, contextLimit),
    largestContext: most.numBlocks * BLOCK_ROWS,
    notes: pages.notes,
  };
}

/** Bytes for people: `98.4 MB`, `23.0 KB`. Powers of 1000, as on a data sheet. */
export function bytesText(bytes: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${bytes} B` : `${value.toFixed(1)} ${units[unit]}`;
}
