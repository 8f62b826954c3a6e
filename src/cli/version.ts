/** `--version`: program, Deno, adapter. @module */
import manifest from "../../deno.json" with { type: "json" };
import { PROGRAM } from "./help.ts";

/** Version of the program. */
export const VERSION: string = manifest.version;

const PROBE_MS = 3000;

/** Versions of program and Deno. */
export const VERSIONS: readonly string[] = [
  `${PROGRAM} ${VERSION}`,
  `deno ${Deno.version.deno}`,
];

/**
 * What `--version` prints. Never fails for want of an adapter.
 *
 * @param typed What one types before a command's name.
 */
export async function versionText(typed: string): Promise<string> {
  return [...VERSIONS, `adapter ${await adapterName(typed)}`, ""].join("\n");
}

async function adapterName(typed: string): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    const late = new Promise<null>((resolve) => {
      timer = setTimeout(() => resolve(null), PROBE_MS);
    });
    // Without --unstable-webgpu the whole API is absent.
    const gpu = (navigator as { gpu?: GPU }).gpu;
    const adapter = await Promise.race([gpu?.requestAdapter(), late]) ?? null;
    if (adapter === null) return `none found (see: ${typed} doctor)`;
    return adapter.info.description || adapter.info.vendor || "unnamed";
  } catch (error) {
    return `none (${error instanceof Error ? error.message : String(error)})`;
  } finally {
    clearTimeout(timer);
  }
}
