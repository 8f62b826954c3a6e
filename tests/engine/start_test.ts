import { assert } from "std-testing";
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE } from "../../src/engine/types.ts";
import { ModelFileError } from "../../src/model/errors.ts";

for (const inProcess of [true, false]) {
  const where = inProcess ? "in process" : "in its worker";
  Deno.test(`startEngine() refuses a model that is not there, ${where}`, async () => {
    const starting = startEngine({
      modelPath: "no-such-folder/none.gguf",
      contextLength: null,
      maxSequences: 1,
      kvType: "f16",
      prefillChunk: null,
      kernelOverrides: {},
      ...DEFAULT_CACHE,
    }, { inProcess });
    await assert.rejects(starting, (error: unknown) => {
      assert.ok(error instanceof ModelFileError);
      assert.deepEqual([error.code, error.path], ["not_found", "no-such-folder/none.gguf"]);
      return true;
    });
  });
}

for (const inProcess of [true, false]) {
  const where = inProcess ? "in process" : "in its worker";
  Deno.test(`startEngine() refuses settings that do not suit the model, ${where}`, async () => {
    for (
      const [kv, message] of [
        [
          { policy: "tokenbutler" },
          /^`kv\.policy` is tokenbutler, which needs a trained predictor/,
        ],
        [{ denseLayers: 99 }, /^`kv\.dense_layers` must be at most \d+, the layers of this model/],
      ] as const
    ) {
      const starting = startEngine({
        modelPath: new URL("../data/tiny/llama31-bf16", import.meta.url).pathname,
        contextLength: null,
        maxSequences: 1,
        kvType: "f16",
        prefillChunk: null,
        kernelOverrides: {},
        ...DEFAULT_CACHE,
        kv,
      }, { inProcess });
      await assert.rejects(starting, { name: "KvSettingsError", message });
    }
  });
}
