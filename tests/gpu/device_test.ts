import { DeviceError, openDevice } from "../../src/gpu/device.ts";
import { assert } from "std-testing";

const GOOD_LIMITS = {
  maxBufferSize: 2 ** 31,
  maxStorageBufferBindingSize: 2 ** 27,
  maxStorageBuffersPerShaderStage: 10,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 128,
  maxComputeWorkgroupStorageSize: 32768,
  minUniformBufferOffsetAlignment: 64,
  minStorageBufferOffsetAlignment: 32,
};

interface FakeAdapter {
  readonly limits?: Partial<typeof GOOD_LIMITS>;
  readonly info?: Record<string, unknown>;
  /** Features that the adapter grants. */
  readonly features?: readonly string[];
  readonly error?: string;
}

/** Runs a body with another `navigator.gpu`; gives the feature sets that were asked for. */
async function withGpu(gpu: unknown, body: () => Promise<void>): Promise<void> {
  Object.defineProperty(navigator, "gpu", { value: gpu, configurable: true });
  try {
    await body();
  } finally {
    delete (navigator as unknown as { gpu?: unknown }).gpu;
  }
}

/** A WebGPU whose adapters are spent by one request for a device, as real ones are. */
function fakeGpu(fake: FakeAdapter) {
  const limits = { ...GOOD_LIMITS, ...fake.limits };
  const asked: string[][] = [];
  const gpu = {
    requestAdapter() {
      let spent = false;
      return Promise.resolve({
        limits,
        info: fake.info,
        requestDevice(options: { requiredFeatures: string[]; requiredLimits: object }) {
          assert.equal(spent, false, "an adapter was used twice");
          spent = true;
          asked.push(options.requiredFeatures);
          if (fake.error !== undefined) return Promise.reject(new Error(fake.error));
          if (!options.requiredFeatures.every((name) => fake.features?.includes(name))) {
            return Promise.reject(new TypeError("requiredFeatures must be a subset"));
          }
          return Promise.resolve({ limits: { ...limits, ...options.requiredLimits } });
        },
      });
    },
  };
  return { gpu, asked };
}

async function refusal(gpu: unknown): Promise<DeviceError> {
  let found: unknown;
  await withGpu(gpu, async () => {
    found = await openDevice().catch((error) => error);
  });
  assert.ok(found instanceof DeviceError, String(found));
  return found;
}

Deno.test("openDevice() opens the adapter of this machine and says what it can do", async () => {
  const { device, caps } = await openDevice();
  try {
    assert.notEqual(caps.description, "");
    assert.ok(caps.maxBindingSize <= caps.maxBufferSize);
    assert.ok(caps.maxBindingSize >= 64 * 2 ** 20);
    assert.ok(caps.maxWorkgroupSize >= 64);
    assert.equal(device.features.has("shader-f16"), caps.f16);
    if (caps.subgroups) assert.ok(caps.subgroupMin > 0 && caps.subgroupMax >= caps.subgroupMin);
  } finally {
    device.destroy();
  }
});

for (
  const masked of [["subgroups"], ["shader-f16"], ["subgroups", "shader-f16", "timestamp-query"]]
) {
  Deno.test(`openDevice() does without ${masked.join(", ")}`, async () => {
    const { device, caps } = await openDevice(masked);
    try {
      const has = { subgroups: caps.subgroups, f16: caps.f16, timestamps: caps.timestamps };
      if (masked.includes("subgroups")) assert.equal(has.subgroups, false);
      if (masked.includes("shader-f16")) assert.equal(has.f16, false);
      if (masked.includes("timestamp-query")) assert.equal(has.timestamps, false);
      for (const name of masked) assert.equal(device.features.has(name as GPUFeatureName), false);
    } finally {
      device.destroy();
    }
  });
}

Deno.test("openDevice() tries fewer features, each time on a fresh adapter", async () => {
  const { gpu, asked } = fakeGpu({ features: ["timestamp-query"], info: { description: "Small" } });
  await withGpu(gpu, async () => {
    const { caps } = await openDevice();
    assert.equal(caps.timestamps, true);
    assert.equal(caps.f16 || caps.subgroups, false);
    assert.equal(caps.description, "Small");
    assert.equal(caps.maxBindingSize, 2 ** 27);
    assert.equal(caps.maxWorkgroupSize, 128);
    assert.equal(caps.uniformAlignment, 64);
  });
  assert.deepEqual(asked[0], ["subgroups", "shader-f16", "timestamp-query"]);
  assert.deepEqual(asked.at(-1), ["timestamp-query"]);
});

Deno.test("openDevice() tells software adapters by their name", async () => {
  const cases: readonly [string, boolean][] = [
    ["llvmpipe (LLVM 15.0.6, 256 bits)", true],
    ["SwiftShader Device (Subzero)", true],
    ["Microsoft Basic Render Driver", true],
    ["NVIDIA GeForce RTX 4090", false],
    ["AMD Radeon 780M (RADV)", false],
  ];
  for (const [description, software] of cases) {
    await withGpu(fakeGpu({ info: { description } }).gpu, async () => {
      assert.equal((await openDevice()).caps.software, software, description);
    });
  }
});

Deno.test("openDevice() says what to do when there is no adapter", async () => {
  const error = await refusal({ requestAdapter: () => Promise.resolve(null) });
  assert.equal(error.code, "no_adapter");
  assert.match(error.message, /Vulkan driver .*mesa-vulkan-drivers.*DENO_WEBGPU_BACKEND/);
  const off = await refusal(undefined);
  assert.equal(off.code, "no_adapter");
  assert.match(off.message, /--unstable-webgpu/);
});

Deno.test("openDevice() names the limit that is too small, and both numbers", async () => {
  const limits = { maxStorageBuffersPerShaderStage: 4 };
  const error = await refusal(fakeGpu({ limits, info: { description: "Toy" } }).gpu);
  assert.equal(error.code, "too_small");
  assert.match(error.message, /"Toy".*maxStorageBuffersPerShaderStage is 4, at least 8/);
  const unnamed = await refusal(fakeGpu({ limits: { maxBufferSize: 1024 } }).gpu);
  assert.match(unnamed.message, /"unknown".*maxBufferSize is 1024, at least 134217728/);
});

Deno.test("openDevice() passes on why an adapter refused", async () => {
  const error = await refusal(fakeGpu({ error: "out of handles" }).gpu);
  assert.equal(error.code, "failed");
  assert.match(error.message, /the adapter refused a device: out of handles/);
  assert.ok(error.cause instanceof Error);
});
