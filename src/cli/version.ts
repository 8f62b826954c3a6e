/** `--version`: program, Deno, adapter. @module */
import manifest from "../../deno.json" with { type: "json" };
import { PROGRAM } from "./help.ts";

/** Version of the program. */
export const VERSION: string = manifest.version;

const PROBE_MS = 3000;

/** What `--version` prints. Never fails for want of an adapter. */
export async function versionText(): Promise<string> {
  return `${PROGRAM} ${VERSION}\ndeno ${Deno.version.deno}\nadapter ${await adapterName()}\n`;
}

async function adapterName(): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    const late = new Promise<null>((resolve) => {
      timer = setTimeout(() => resolve(null), PROBE_MS);
    });
    // Without --unstable-webgpu the whole API is absent.
    const gpu = (navigator as { gpu?: GPU }).gpu;
    const adapter = await Promise.race([gpu?.requestAdapter(), late]) ?? null;
    if (adapter === null) return "none found (see: tokenbutler doctor)";
    return adapter.info.description || adapter.info.vendor || "unnamed";
  } catch (error) {
    return `none (${error instanceof Error ? error.message : String(error)})`;
  } finally {
    clearTimeout(timer);
  }
}
