/** Files that are there as a whole or not at all. @module */

/**
 * Writes a file; what was there before stays until the new one is complete.
 *
 * @throws What the system says, with nothing half-written left behind.
 */
export function writeWhole(path: string, content: Uint8Array<ArrayBuffer> | string): void {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const part = `${path}.part`;
  try {
    writeAll(part, bytes);
    Deno.renameSync(part, path);
  } catch (error) {
    removeIfThere(part);
    throw error;
  }
}

function writeAll(path: string, bytes: Uint8Array): void {
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
  // A name must not outlive a power cut that its content does not.
  file.syncDataSync();
}

function removeIfThere(path: string): void {
  try {
    Deno.removeSync(path);
  } catch {
    // It was never begun, or the disk is gone: the first error says more.
  }
}
