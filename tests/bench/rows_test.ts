import { assert } from "std-testing";
import { captureRows, placeRows, sourceOf } from "../../bench/_rows.ts";
import { createEngineParts } from "../../src/engine/create.ts";
import { DEFAULT_CACHE, GREEDY } from "../../src/engine/types.ts";
import { openKeys, readKeys } from "../../src/butler/calibration/read_keys.ts";
import { openModel } from "../../src/model/open.ts";
import { rotateReference } from "../reference/rope.ts";

Deno.test("sourceOf() repeats all captured blocks but the first", () => {
  const of = (block: number) => sourceOf(block, 3);
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map((block) => of(block).source), [0, 1, 2, 1, 2, 1, 2]);
  assert.deepEqual([0, 2, 3, 4, 5].map((block) => of(block).distance), [0, 0, 64, 64, 128]);
  assert.deepEqual(sourceOf(5, 1), { source: 0, distance: 160 });
});

/** One sequence of 64 prefilled rows, which is then given 160. */
async function checkFilled(model: string, kvType: "f16" | "f32", tolerance: number) {
  const path = new URL(`../data/tiny/${model}`, import.meta.url).pathname;
  const source = await openModel(path);
  const { config } = source;
  source.close();
  const parts = await createEngineParts({
    ...DEFAULT_CACHE,
    modelPath: path,
    contextLength: 192,
    maxSequences: 1,
    kvType,
    prefillChunk: 64,
    kernelOverrides: {},
  }, () => {});
  using _ = { [Symbol.dispose]: () => void parts.dispose() };
  const { kv, runner } = parts;
  kv.reserve(0, 64);
  const tokens = Array.from({ length: 64 }, (_, i) => (i * 37 + 11) % config.vocabSize);
  const sample = { ...GREEDY, step: 0, adjustments: [], forced: null, logprobs: null };
  await runner.prefill({ slot: 0, start: 0, tokens, sample, scoring: null });
  const rows = await captureRows(parts, config, 0, 2);
  kv.release(0);
  kv.reserve(0, 160);
  placeRows(parts, rows, 0, 0, 5);
  using keys = await openKeys(parts, config);
  const { headDim, numKvHeads } = config;
  const { rope } = rows;
  const turn = {
    pairing: rope.pairing,
    rotary: rope.dimensions,
    frequencies: rope.inverseFrequencies,
    attentionFactor: 1,
  };
  for (let layer = 0; layer < config.numLayers; layer++) {
    const read = await readKeys(keys, 0, layer, 0, 160);
    const key = (
      head: number,
      row: number,
    ) => [...read.subarray((head * 160 + row) * headDim, (head * 160 + row + 1) * headDim)];
    assert.ok(key(0, 40).some((value) => value !== 0));
    for (let head = 0; head < numKvHeads; head++) {
      for (const row of [64, 95, 96, 133, 159]) {
        const { source: block, distance } = sourceOf(Math.floor(row / 32), 2);
        const wanted = rotateReference(key(head, block * 32 + row % 32), distance, turn);
        const got = key(head, row);
        const scale = Math.max(...wanted.map(Math.abs));
        for (const [d, value] of got.entries()) {
          assert.ok(Math.abs(value - wanted[d]!) <= tolerance * scale, `layer ${layer} row ${row}`);
        }
      }
    }
  }
}

Deno.test("a filled cache has the prefilled rows and their turned copies (f16, adjacent)", () =>
  checkFilled("llama-legacy.gguf", "f16", 2 ** -11));

Deno.test("a filled cache has the prefilled rows and their turned copies (f32, half)", () =>
  checkFilled("llama2-mha-f16", "f32", 2 ** -23));
