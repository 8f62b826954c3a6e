/** A real engine on a tiny model, one for all tests of a file: starting it takes seconds. @module */
import { openTextSide } from "../../src/cli/text_side.ts";
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE, type EngineOptions } from "../../src/engine/types.ts";
import type { AppOptions, ServedModel } from "../../src/server/app.ts";
import { openServer, type TestServer } from "./_server.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;

/** Sequences that the engine decodes together. */
export const MAX_SEQUENCES = 4;
/** Tokens of a sequence. */
export const CONTEXT_LENGTH = 512;

/**
 * Starts the engine before the tests of the calling file and closes it after them.
 *
 * @param more - Options of the engine, in place of those for all tests.
 * @returns Opens a server over it; closing the server leaves the engine running.
 */
export function withTestEngine(
  more: Partial<EngineOptions> = {},
): (options?: Partial<AppOptions>) => Promise<TestServer> {
  let model: ServedModel | undefined;
  Deno.test.beforeAll(async () => {
    const engine = await startEngine({
      modelPath: MODEL,
      contextLength: CONTEXT_LENGTH,
      maxSequences: MAX_SEQUENCES,
      kvType: "f32",
      prefillChunk: 32,
      kernelOverrides: {},
      ...DEFAULT_CACHE,
      ...more,
    });
    const side = await openTextSide(MODEL, "serve");
    model = { engine, ...side };
  });
  Deno.test.afterAll(async () => {
    model?.template?.close();
    model?.encoder?.close();
    await model?.engine.close();
  });
  return (options = {}) => {
    if (model === undefined) throw new Error("the engine is not there yet");
    return openServer(model, options, true);
  };
}
