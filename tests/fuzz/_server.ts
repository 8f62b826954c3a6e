/** A server with everything on, as spoiled requests find it. @module */
import { openTextSide } from "../../src/cli/text_side.ts";
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS, type Engine } from "../../src/engine/types.ts";
import { createMetrics } from "../../src/observe/metrics/mod.ts";
import { createLogger } from "../../src/observe/logger.ts";
import { Observer } from "../../src/observe/observer.ts";
import { requestLog } from "../../src/observe/request_log.ts";
import type { AppOptions } from "../../src/server/app.ts";
import { NO_GUARD } from "../../src/server/guard/guard.ts";
import { DEFAULT_CONNECTION_LIMITS } from "../../src/server/listener/listener.ts";
import { openServer, SERVED_NAME, type TestServer } from "../server/_server.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;
const HOST_BYTES = 16 * 2 ** 20;

/** A server over an engine of a tiny model. */
export type FuzzServer = Pick<TestServer, "url" | "logged" | "model"> & AsyncDisposable & {
  readonly engine: Engine;
  /** What it wants of everybody. */
  readonly key: string;
};

/** Deadlines that clients of a short test meet. */
const SHORT: Partial<AppOptions> = {
  pace: { stallMs: 2000 },
  limits: { maxQueue: 12, bodyTimeoutMs: 1000 },
};

/**
 * Starts it: a key, metrics, a log, slots with a folder, and little host memory for rows.
 *
 * @param short Whether it waits for clients as little as a short test can.
 * @param ends Whether the process ends after it: the device is left to that then. A driver that is
 * unloaded in a worker while the process exits may take it down.
 */
export async function openFuzzServer({ short = false, ends = false } = {}): Promise<FuzzServer> {
  const slotDir = await Deno.makeTempDir();
  const engine = await startEngine({
    modelPath: MODEL,
    contextLength: 512,
    maxSequences: 4,
    kvType: "f32",
    prefillChunk: 32,
    kernelOverrides: {},
    ...DEFAULT_CACHE,
    tiers: { ...DEFAULT_TIERS, hostBytes: HOST_BYTES, slotDir },
  });
  const side = await openTextSide(MODEL, "serve");
  const key = "fuzz-key";
  const version = "0.0.0";
  const metrics = createMetrics({ modelName: SERVED_NAME, version });
  const logger = createLogger({ format: "json", level: "debug", write() {} });
  const server = await openServer(
    { engine, ...side },
    {
      guard: { ...NO_GUARD, apiKeys: [key] },
      observer: new Observer({ sinks: [metrics, requestLog(logger, null)] }),
      operator: { metrics, slots: true },
      ...short ? SHORT : {},
    },
    ends,
    short ? { ...DEFAULT_CONNECTION_LIMITS, headerTimeoutMs: 1000 } : undefined,
  );
  return {
    url: server.url,
    logged: server.logged,
    model: server.model,
    engine,
    key,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      side.encoder?.close();
      if (ends) await engine.settle();
      await Deno.remove(slotDir, { recursive: true });
    },
  };
}
