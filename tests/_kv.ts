/** Settings and planners of the KV cache for tests that have no real one. @module */
import type { KvSettings } from "../src/butler/settings.ts";
import type { KvPlanner } from "../src/engine/local_engine_parts.ts";
import type { PagePool } from "../src/kv/page_pool.ts";

/** Everything is attended to. */
export const DENSE_SETTINGS: KvSettings = {
  policy: "dense",
  sinks: 64,
  window: 192,
  budget: { rows: 768 },
  interval: 1,
  neighbours: false,
  fetch: "in-step",
  recallEvery: 0,
  layers: [{ role: "dense", weights: [1] }],
};

/** The same as a decision. */
export const DENSE_KV = { settings: DENSE_SETTINGS, notes: [] };

/** A planner over a pool of pages: what does not fit it is refused. */
export function poolPlanner(pool: PagePool): KvPlanner {
  const { numPages, pageSize } = pool.usage;
  return {
    fits: () => true,
    refusal: ({ maxRows }) =>
      maxRows <= numPages * pageSize
        ? null
        : `the request needs ${maxRows} rows of KV cache, all of it holds ${numPages * pageSize}`,
  };
}
