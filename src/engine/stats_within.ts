/** Asks an engine about its load, which it tells between two steps only. @module */
import type { Engine, EngineStats } from "./types.ts";

/**
 * What an engine says of itself; null: nothing in time, as it is in a long step or hangs.
 *
 * @throws What an engine fails with that is gone.
 */
export async function statsWithin(engine: Engine, ms: number): Promise<EngineStats | null> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<null>((resolve) => timer = setTimeout(() => resolve(null), ms));
  try {
    return await Promise.race([engine.stats(), late]);
  } finally {
    clearTimeout(timer);
  }
}
