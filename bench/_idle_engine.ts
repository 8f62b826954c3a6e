/**
 * An engine whose runner computes nothing: what is left is the loop around it, or, where its steps take
 * a while, what goes on beside a device that is not the processor.
 *
 * @module
 */
import type { LocalEngine } from "../src/engine/local_engine.ts";
import { NO_STEPS, type Runner } from "../src/engine/runner_types.ts";
import { serveEngine, type WorkerScope } from "../src/engine/worker_host.ts";
import { fakeEngine } from "../tests/engine/_fake_engine.ts";

/** More than any model has: whatever is asked of a model can be asked here. */
const VOCAB = 2 ** 20;

/** Repeats the last token of the prompt. */
function idleRunner(stepMs: number): Runner {
  const cell = new Int32Array(new SharedArrayBuffer(4));
  // The thread sleeps, as it does while a device computes: what is sent to it lies until the step is
  // over.
  const step = () => {
    if (stepMs > 0) Atomics.wait(cell, 0, 0, stepMs);
  };
  return {
    begin: () => Promise.resolve(),
    report: () => null,
    totals: NO_STEPS,
    park: () => Promise.resolve(null),
    restore: () => Promise.reject(new Error("nothing is parked")),
    decode(rows) {
      step();
      return Promise.resolve(rows.map(({ token }) => ({ token, logprob: null })));
    },
    prefill({ tokens, sample }) {
      step();
      const sampled = sample && { token: tokens.at(-1)!, logprob: null };
      return Promise.resolve({ sampled, scores: [] });
    },
  };
}

/** @param stepMs Milliseconds that each step takes of nobody's time. */
export function idleEngine(maxSequences: number, stepMs = 0): LocalEngine {
  const runner = idleRunner(stepMs);
  const options = { maxSequences, contextLength: 16384, prefillChunk: 512, vocabSize: VOCAB };
  return fakeEngine(options, { runner }).engine;
}

/** Where the worker is loaded from whose engine has such steps. */
export function idleWorkerUrl(stepMs = 0): URL {
  return new URL(`./_idle_engine.ts?steps=${stepMs}`, import.meta.url);
}

// The same module is the worker of the benchmarks.
if ("DedicatedWorkerGlobalScope" in globalThis) {
  const stepMs = Number(new URL(import.meta.url).searchParams.get("steps"));
  serveEngine(
    self as unknown as WorkerScope,
    ({ maxSequences }) => Promise.resolve(idleEngine(maxSequences, stepMs)),
  );
}
