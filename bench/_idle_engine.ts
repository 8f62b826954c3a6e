/** An engine whose runner costs nothing, so that only the loop around it is left. @module */
import type { LocalEngine } from "../src/engine/local_engine.ts";
import { NO_STEPS, type Runner } from "../src/engine/runner_types.ts";
import { serveEngine, type WorkerScope } from "../src/engine/worker_host.ts";
import { fakeEngine } from "../tests/engine/_fake_engine.ts";

const RUNNER: Runner = {
  begin: () => Promise.resolve(),
  report: () => null,
  totals: NO_STEPS,
  park: () => Promise.resolve(null),
  restore: () => Promise.reject(new Error("nothing is parked")),
  decode: (rows) => Promise.resolve(rows.map(({ token }) => ({ token, logprob: null }))),
  prefill: ({ sample }) =>
    Promise.resolve({ sampled: sample && { token: 1, logprob: null }, scores: [] }),
};

export function idleEngine(maxSequences: number): LocalEngine {
  return fakeEngine({ maxSequences, contextLength: 16384, prefillChunk: 512 }, { runner: RUNNER })
    .engine;
}

// The same module is the worker of the benchmark.
if ("DedicatedWorkerGlobalScope" in globalThis) {
  serveEngine(
    self as unknown as WorkerScope,
    ({ maxSequences }) => Promise.resolve(idleEngine(maxSequences)),
  );
}
