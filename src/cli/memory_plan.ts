/** What a model needs of a device's memory, for `doctor`. @module */
import type { ModelConfig, ModelSource } from "../model/types.ts";

/** Sizes in bytes, lengths in tokens. */
export interface MemoryPlan {
  readonly weightsBytes: number;
  /** Keys and values of one token in all layers. */
  readonly kvBytesPerToken: number;
  readonly trainedContext: number;
  /** KV cache of one sequence of the trained length. */
  readonly trainedKvBytes: number;
  /**
   * Tokens that one binding can hold of the keys (or the values) of one layer, all sequences
   * together: the adapter's limit, whatever memory there is.
   */
  readonly contextByBinding: number;
  /** The longer one of the two cannot be used. */
  readonly largestContext: number;
}

/** Works a plan out. Memory that other programs hold cannot be known: it is not in it. */
export function memoryPlan(
  source: Pick<ModelSource, "sizeBytes"> & { readonly config: ModelConfig },
  kvType: "f16" | "f32",
  maxBindingSize: number,
): MemoryPlan {
  const { config } = source;
  const rowBytes = config.numKvHeads * config.headDim * (kvType === "f16" ? 2 : 4);
  const kvBytesPerToken = 2 * config.numLayers * rowBytes;
  const contextByBinding = Math.floor(maxBindingSize / rowBytes);
  return {
    weightsBytes: source.sizeBytes,
    kvBytesPerToken,
    trainedContext: config.contextLength,
    trainedKvBytes: kvBytesPerToken * config.contextLength,
    contextByBinding,
    largestContext: Math.min(config.contextLength, contextByBinding),
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
