/** How much memory there is for whom, as far as a program without further rights can tell. @module */

/**
 * Bytes that could be had without swapping, or null where the system does not say (it does on
 * Linux, in a file that everybody may read).
 *
 * @param read Gives the text of a file; for tests.
 */
export function availableHostMemory(
  read: (path: string) => string = Deno.readTextFileSync,
): number | null {
  try {
    const line = /^MemAvailable:\s*(\d+) kB$/m.exec(read("/proc/meminfo"));
    return line === null ? null : Number(line[1]) * 1024;
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
