/** How much memory there is for whom, as far as a program without further rights can tell. @module */

/**
 * Bytes that could be had without swapping, or null where the system does not say, or may not be
 * asked: Deno gives files like `/proc/meminfo` only to who may do everything.
 *
 * @param ask Asks the system; for tests.
 */
export function availableHostMemory(
  ask: () => number = () => Deno.systemMemoryInfo().available,
): number | null {
  try {
    // Else a person at a terminal would be asked.
    const { state } = Deno.permissions.querySync({ name: "sys", kind: "systemMemoryInfo" });
    const bytes = state === "granted" ? ask() : 0;
    return bytes > 0 ? bytes : null;
  } catch {
    return null;
  }
}

/** About what a step needs on the device besides weights and cache, with room to spare. */
const STEP_BYTES = 256 * 2 ** 20;

/** Bytes of device memory that the cache leaves to what comes after it. */
export function spareDeviceBytes(weightBytes: number): number {
  return weightBytes + STEP_BYTES;
}

/**
 * Bytes that the KV cache may have on an adapter that lives in host memory and never refuses an
 * allocation: half of what is left beside the weights. Infinity where nothing is known.
 */
export function softwareCacheBytes(available: number | null, weightBytes: number): number {
  return available === null ? Infinity : Math.max(0, available - weightBytes) / 2;
}
