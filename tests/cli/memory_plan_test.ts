import { assert } from "std-testing";
import { bytesText, memoryPlan } from "../../src/cli/memory_plan.ts";
import type { ModelConfig } from "../../src/model/types.ts";

/** The sizes of SmolLM2-135M. */
const CONFIG: ModelConfig = {
  architecture: "llama",
  name: "small",
  vocabSize: 49152,
  hiddenSize: 576,
  intermediateSize: 1536,
  numLayers: 30,
  numHeads: 9,
  numKvHeads: 3,
  headDim: 64,
  contextLength: 8192,
  rmsNormEps: 1e-5,
  rope: { dimensions: 64, pairing: "half", inverseFrequencies: [], attentionFactor: 1 },
  qkvBias: false,
  qkNorm: false,
  tiedEmbeddings: true,
};

Deno.test("memoryPlan() multiplies out what a model needs", () => {
  const source = { config: CONFIG, sizeBytes: 98_000_000 };
  const options = { kvType: "f16", contextLength: 8192, numSlots: 2 } as const;
  const limits = { maxBindingSize: 128 * 2 ** 20, contextLimit: Infinity };
  const plan = memoryPlan(source, options, limits);
  assert.equal(plan.kvBytesPerToken, 2 * 30 * 3 * 64 * 2);
  assert.equal(plan.kvBytes, 2 * 8192 * plan.kvBytesPerToken);
  assert.equal(plan.contextLength, 8192);
  // A layer's keys take 384 bytes a token, in pages of 32 tokens.
  assert.equal(plan.largestContext, Math.floor(128 * 2 ** 20 / 384 / 32) * 32);
  assert.deepEqual(plan.notes, []);
  const small = { ...limits, maxBindingSize: 2 ** 20 };
  const wide = memoryPlan(source, { ...options, kvType: "f32" }, small);
  assert.equal(wide.kvBytesPerToken, 2 * plan.kvBytesPerToken);
  // What does not fit is kept below the device: the context is what was asked for.
  const rows = Math.floor(2 ** 20 / 768 / 32) * 32;
  assert.equal(wide.contextLength, 8192);
  assert.equal(wide.kvBytes, rows * wide.kvBytesPerToken);
  assert.match(wide.notes.join(), new RegExp(`the device holds ${rows} tokens`));
  const capped = memoryPlan(source, { ...options, deviceBytes: 10 * 2 ** 20 }, limits);
  assert.equal(capped.kvBytes, 14 * 32 * plan.kvBytesPerToken);
  assert.equal(capped.largestContext, plan.largestContext);
  const tried = { layerSlab: [], slabPages: [], numBlocks: 5, notes: ["refused"] };
  const cut = memoryPlan(source, options, limits, tried);
  assert.equal(cut.kvBytes, 5 * 32 * plan.kvBytesPerToken);
  assert.deepEqual(cut.notes, ["refused"]);
  const short = memoryPlan(source, options, { ...limits, contextLimit: 4096 });
  assert.equal(short.contextLength, 4096);
  assert.equal(short.largestContext, 4096);
  assert.equal(short.kvBytes, 2 * 4096 * plan.kvBytesPerToken);
});

Deno.test("bytesText() writes sizes for people", () => {
  const cases: [number, string][] = [
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 KB"],
    [23040, "23.0 KB"],
    [98_362_432, "98.4 MB"],
    [3e12, "3.0 TB"],
    [5e15, "5000.0 TB"],
  ];
  for (const [bytes, want] of cases) assert.equal(bytesText(bytes), want);
});
