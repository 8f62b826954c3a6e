import { assert } from "std-testing";
import {
  type CapturedRows,
  captureRows,
  partBytes,
  placeRows,
  sourceOf,
  storeRows,
  writeRows,
} from "../../bench/_rows.ts";
import { RowStore } from "../../src/kv/store/row_store.ts";
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

Deno.test("storeRows() makes a prefix of captured and repeated blocks", () => {
  const shape = { numKvHeads: 2, headDim: 8, kvType: "f16" } as const;
  const bytes = partBytes(shape);
  const rope = {
    dimensions: 8,
    pairing: "half",
    attentionFactor: 1,
    inverseFrequencies: [1, 0.1, 0.01, 0.001],
  } as const;
  // Halves from 1 to below 2.
  const values = (seed: number) =>
    new Uint8Array(
      Uint16Array.from({ length: bytes }, (_, i) => 0x3c00 + (i * seed) % 1024).buffer,
    );
  const rows: CapturedRows = { shape, rope, numBlocks: 2, layers: [values(3), values(7)] };
  using store = new RowStore({
    shape: { numLayers: 2, numKvHeads: 2, headDim: 8, bytesPerValue: 2 },
    fingerprint: "test",
    hostBytes: 2 ** 20,
    disk: null,
    prefixDir: null,
    onWarning: () => {},
  });
  const keys = storeRows(store, rows, 5, Array.from({ length: 160 }, (_, i) => i));
  assert.equal(keys.length, 5);
  using sequence = store.adoptPrefix(keys);
  assert.equal(sequence.numBlocks, 5);
  const [read, wanted] = [new Uint8Array(bytes), new Uint8Array(bytes)];
  for (let layer = 0; layer < 2; layer++) {
    for (let block = 0; block < 5; block++) {
      sequence.readPart(block, layer, read, 0);
      writeRows(rows, layer, block, wanted);
      assert.deepEqual(read, wanted);
      const { source, distance } = sourceOf(block, 2);
      const from = rows.layers[layer]!.subarray(source * bytes, (source + 1) * bytes);
      assert.deepEqual(read.subarray(bytes / 2), from.subarray(bytes / 2), "values stay");
      const same = read.subarray(0, bytes / 2).every((byte, i) => byte === from[i]);
      assert.equal(same, distance === 0, "keys are turned");
    }
  }
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
