import type { DeviceCaps } from "../../src/gpu/device.ts";
import { DeviceError } from "../../src/gpu/device.ts";
import { sampleVariantName, selectSampleVariant } from "../../src/gpu/ops/sample_variant.ts";
import { assert } from "std-testing";

const GPU: DeviceCaps = {
  description: "a GPU",
  vendor: "4318",
  software: false,
  subgroups: true,
  subgroupMin: 32,
  subgroupMax: 32,
  f16: true,
  timestamps: true,
  maxBufferSize: 2 ** 30,
  maxBindingSize: 2 ** 30,
  maxWorkgroupSize: 1024,
  maxWorkgroupStorage: 32768,
  uniformAlignment: 256,
  storageAlignment: 256,
};
const SOFTWARE = { ...GPU, software: true };
const SMALL = { ...GPU, maxWorkgroupSize: 128 };

Deno.test("selectSampleVariant() gives few lanes to software adapters and many to GPUs", () => {
  const name = (caps: DeviceCaps, vocab: number) =>
    sampleVariantName(selectSampleVariant(caps, vocab));
  assert.equal(name(SOFTWARE, 49152), "sample_wg8_f64_s16");
  assert.equal(name(SOFTWARE, 262144), "sample_wg8_f256_s16");
  assert.equal(name(GPU, 49152), "sample_wg256_f256_s64");
  assert.equal(name(SMALL, 49152), "sample_wg64_f64_s64");
});

Deno.test("selectSampleVariant() takes overrides and refuses others", () => {
  const overrides = { sample_wg: "64", sample_splits: "16" };
  const variant = selectSampleVariant(SOFTWARE, 49152, overrides);
  assert.equal(sampleVariantName(variant), "sample_wg64_f64_s16");
  assert.throws(() => selectSampleVariant(GPU, 100, { sample_wg: "16" }), DeviceError);
  assert.throws(() => selectSampleVariant(SMALL, 100, { sample_wg: "256" }), DeviceError);
  assert.throws(() => selectSampleVariant(GPU, 100, { sample_splits: "1" }), DeviceError);
});
