/** How the cache is cut to what a device has room for, on a device that only counts bytes. */
import { assert } from "std-testing";
import { type DeviceCaps, DeviceError } from "../../src/gpu/device.ts";
import { Kernels } from "../../src/gpu/kernels.ts";
import { DeviceTier, kvBytesPerToken } from "../../src/kv/device_tier.ts";
import type { ModelConfig } from "../../src/model/types.ts";

const CONFIG: ModelConfig = {
  architecture: "llama",
  name: "small",
  vocabSize: 100,
  hiddenSize: 64,
  intermediateSize: 64,
  numLayers: 2,
  numHeads: 2,
  numKvHeads: 1,
  headDim: 32,
  contextLength: 1024,
  rmsNormEps: 1e-5,
  rope: { dimensions: 32, pairing: "half", inverseFrequencies: [], attentionFactor: 1 },
  qkvBias: false,
  qkNorm: false,
  tiedEmbeddings: true,
};
const TOKEN_BYTES = kvBytesPerToken(CONFIG, "f32");
const OPTIONS = { kvType: "f32", contextLength: 1024, numSlots: 2 } as const;

const CAPS: DeviceCaps = {
  description: "counter",
  vendor: "",
  software: false,
  subgroups: false,
  subgroupMin: 0,
  subgroupMax: 0,
  f16: false,
  timestamps: false,
  maxBufferSize: 2 ** 30,
  maxBindingSize: 2 ** 30,
  maxWorkgroupSize: 256,
  maxWorkgroupStorage: 16384,
  uniformAlignment: 256,
  storageAlignment: 256,
};

/** A device with so much memory. */
function counting(totalBytes: number) {
  let used = 0;
  let refused = false;
  const device = {
    createBuffer({ size }: GPUBufferDescriptor) {
      const fits = used + size <= totalBytes;
      if (fits) used += size;
      else refused = true;
      return { size, destroy: () => void (used -= fits ? size : 0) };
    },
    pushErrorScope: () => {},
    popErrorScope() {
      const error = refused ? { message: "no room" } : null;
      refused = false;
      return Promise.resolve(error);
    },
  };
  const kernels = new Kernels(device as unknown as GPUDevice, CAPS);
  return { kernels, usedBytes: () => used };
}

Deno.test("DeviceTier.create() takes all it wants where there is room", async () => {
  const { kernels, usedBytes } = counting(2 ** 24);
  const tier = await DeviceTier.create(kernels, CONFIG, { ...OPTIONS, spareBytes: 1000 });
  assert.equal(tier.contextLength, 1024);
  assert.equal(tier.numPages, 64);
  assert.deepEqual(tier.notes, []);
  assert.equal(usedBytes(), 2048 * TOKEN_BYTES + tier.pageTable.size);
});

Deno.test("DeviceTier.create() is cut to the memory there is, and says so", async () => {
  const { kernels } = counting(600 * TOKEN_BYTES);
  const tier = await DeviceTier.create(kernels, CONFIG, OPTIONS);
  assert.equal(tier.contextLength, 1024);
  assert.equal(tier.numPages, 16);
  assert.match(tier.notes.join(), /refused.*holds 512 tokens/);
});

Deno.test("DeviceTier.tryPlan() says what there is room for, and takes none of it", async () => {
  const { kernels, usedBytes } = counting(600 * TOKEN_BYTES);
  const plan = await DeviceTier.tryPlan(kernels, CONFIG, OPTIONS);
  assert.equal(plan.numBlocks, 16);
  assert.match(plan.notes.join(), /refused.*holds 512 tokens/);
  assert.equal(usedBytes(), 0);
  const wide = counting(2 ** 24);
  assert.equal((await DeviceTier.tryPlan(wide.kernels, CONFIG, OPTIONS)).numBlocks, 64);
  const none = DeviceTier.tryPlan(counting(100 * TOKEN_BYTES).kernels, CONFIG, OPTIONS);
  await assert.rejects(none, { code: "out_of_memory" });
});

Deno.test("DeviceTier.create() leaves room for what comes after it", async () => {
  const weights = 1500 * TOKEN_BYTES;
  const total = 2048 * TOKEN_BYTES + 1024;
  const { kernels, usedBytes } = counting(total);
  const tier = await DeviceTier.create(kernels, CONFIG, { ...OPTIONS, spareBytes: weights });
  assert.equal(tier.numPages, 16);
  assert.ok(usedBytes() + weights <= total, "the weights would not fit");
});

Deno.test("DeviceTier.create() refuses a device without room for four pages", async () => {
  const { kernels, usedBytes } = counting(100 * TOKEN_BYTES);
  const error = await DeviceTier.create(kernels, CONFIG, OPTIONS).catch((e) => e);
  assert.ok(error instanceof DeviceError);
  assert.equal(error.code, "out_of_memory");
  assert.equal(usedBytes(), 0);
});
