/** Rows that lie on the device already, taken over under other settings. */
import { resolveKv } from "../../src/butler/settings.ts";
import { type Calibration, PROJECTED_DIM } from "../../src/butler/calibration/file.ts";
import { writeCalibration } from "../../src/butler/calibration/write.ts";
import { createEngineParts, type EngineParts } from "../../src/engine/create.ts";
import { DEFAULT_CACHE, GREEDY } from "../../src/engine/types.ts";
import { openModel } from "../../src/model/open.ts";
import { seededRandom } from "../_model_files.ts";
import { assert } from "std-testing";
import { LogitReader } from "./_engine.ts";

const MODEL = new URL("../data/tiny/qwen3-qknorm-f32", import.meta.url).pathname;
const PLAIN = { ...GREEDY, step: 0, adjustments: [], forced: null, logprobs: null };
const ROWS = 75;
const STEPS = 9;

/** Logits of some decode steps after the prompt's rows, which are there. */
async function decode({ runner }: EngineParts, reader: LogitReader, tokens: readonly number[]) {
  const logits: Float32Array[] = [];
  for (let step = 0; step < STEPS; step++) {
    const position = ROWS + step;
    await runner.decode([{ slot: 0, position, token: tokens[position]!, sample: PLAIN }]);
    logits.push(await reader.first());
  }
  return logits;
}

Deno.test("adopted rows are selected from as prefilled ones are", async (t) => {
  const source = await openModel(MODEL);
  const { config } = source;
  const { numLayers, numKvHeads, headDim } = config;
  const random = seededRandom(5);
  const calibration: Calibration = {
    model: { fingerprint: await source.fingerprint(), numLayers, numKvHeads, headDim },
    origin: { tokens: 1, context: 1, program: "test" },
    projection: Float32Array.from(
      { length: numLayers * numKvHeads * headDim * PROJECTED_DIM },
      () => 2 * random() - 1,
    ),
  };
  source.close();
  const file = await Deno.makeTempFile();
  writeCalibration(file, calibration);
  const parts = await createEngineParts({
    ...DEFAULT_CACHE,
    calibration: file,
    modelPath: MODEL,
    contextLength: 96,
    maxSequences: 1,
    kvType: "f32",
    // Rows are adopted in several goes.
    prefillChunk: 32,
    kernelOverrides: {},
  }, () => {});
  using _ = { [Symbol.dispose]: () => (parts.dispose(), Deno.removeSync(file)) };
  const { runner, kv } = parts;
  using reader = await LogitReader.create(parts);
  const tokens = Array.from({ length: 96 }, (_, i) => (i * 37 + 11) % config.vocabSize);
  const needOf = (policy: "dense" | "loki" | "quest" | "oracle", interval: number) => {
    const request = { policy, interval, sinks: 4, window: 8, budget: { rows: 18 }, denseLayers: 0 };
    const situation = { fits: true, canProject: true, canPredict: false };
    const { settings } = resolveKv(request, config, situation);
    return { numRows: ROWS, maxRows: 96, settings };
  };
  const prefill = async (need: ReturnType<typeof needOf>) => {
    kv.release(0);
    kv.begin(0, need);
    kv.reserve(0, 96);
    await runner.begin(0, need);
    for (let start = 0; start < ROWS; start += 32) {
      const part = tokens.slice(start, Math.min(ROWS, start + 32));
      await runner.prefill({ slot: 0, start, tokens: part, sample: PLAIN, scoring: null });
    }
  };
  for (const policy of ["loki", "quest", "oracle"] as const) {
    await t.step(policy, async () => {
      const need = needOf(policy, 4);
      await prefill(need);
      const wanted = await decode(parts, reader, tokens);
      assert.ok(runner.report(0)!.rowsPerStep < ROWS);
      await prefill(needOf("dense", 1));
      runner.end(0);
      await runner.begin(0, need);
      await runner.adopt(0, ROWS);
      assert.deepEqual(await decode(parts, reader, tokens), wanted);
    });
  }
});
