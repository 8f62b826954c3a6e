import { type DeviceCaps, DeviceError, openDevice } from "../../src/gpu/device.ts";
import { dispatch, type Kernel, Kernels } from "../../src/gpu/kernels.ts";
import { rmsNormSpec } from "../../src/gpu/ops/rms_norm.ts";
import { assert } from "std-testing";

async function withKernels(
  body: (kernels: Kernels, caps: DeviceCaps) => Promise<void>,
): Promise<void> {
  const { device, caps } = await openDevice();
  try {
    await body(new Kernels(device, caps), caps);
  } finally {
    device.destroy();
  }
}

const SPEC = rmsNormSpec({ lanes: 8, subgroups: false });

Deno.test("Kernels compiles a variant once", async () => {
  await withKernels(async (kernels) => {
    const first = await kernels.compile(SPEC);
    assert.equal(await kernels.compile(SPEC), first);
    assert.deepEqual(kernels.variants, { rms_norm: "rms_norm_wg8" });
    const other = await kernels.compile(rmsNormSpec({ lanes: 32, subgroups: false }));
    assert.equal(other.layout, first.layout);
    assert.deepEqual(kernels.variants, { rms_norm: "rms_norm_wg8 rms_norm_wg32" });
  });
});

Deno.test("Kernels reports a kernel that does not compile, with the line", async () => {
  await withKernels(async (kernels) => {
    const broken = { ...SPEC, variant: "rms_norm_broken", structs: SPEC.structs.slice(1) };
    const error = await kernels.compile(broken).catch((e) => e);
    assert.ok(error instanceof DeviceError);
    assert.equal(error.code, "failed");
    assert.match(error.message, /rms_norm_broken does not compile.*NormParams/s);
    assert.deepEqual(kernels.variants, {});
  });
});

Deno.test("Kernels refuses bind groups of the wrong length", async () => {
  await withKernels(async (kernels) => {
    const kernel = await kernels.compile(SPEC);
    assert.throws(() => kernels.bind(kernel, []), /rms_norm_wg8 has 5 bindings, got 0/);
  });
});

Deno.test("Kernels refuses buffers that no binding can hold, and rounds sizes up", async () => {
  await withKernels(async (kernels, caps) => {
    const small = new Kernels(kernels.device, { ...caps, maxBindingSize: 4096 });
    assert.throws(() => small.storage("big", 4097), (error) => {
      assert.ok(error instanceof DeviceError);
      assert.equal(error.code, "out_of_memory");
      assert.match(error.message, /"big" needs 4112 bytes, the adapter binds at most 4096/);
      return true;
    });
    const sizes = [0, 1, 16, 17, 4096].map((size) => {
      const buffer = small.storage("b", size);
      buffer.destroy();
      return buffer.size;
    });
    assert.deepEqual(sizes, [16, 16, 16, 32, 4096]);
    await Promise.resolve();
  });
});

Deno.test("Kernels keeps the first failure and throws it on every check", async () => {
  await withKernels(async (kernels) => {
    kernels.check();
    kernels.fail(new Error("first"));
    kernels.fail(new Error("second"));
    assert.throws(() => kernels.check(), /first/);
    assert.throws(() => kernels.check(), /first/);
    await Promise.resolve();
  });
});

Deno.test("dispatch() folds counts above the limit of one dimension, and sends none for 0", () => {
  const sent: [number, number][] = [];
  const pass = {
    setPipeline() {},
    setBindGroup() {},
    dispatchWorkgroups(x: number, y = 1) {
      sent.push([x, y]);
    },
  } as unknown as GPUComputePassEncoder;
  const counts = [0, 1, 65535, 65536, 131071, 10_000_000];
  for (const count of counts) dispatch(pass, {} as Kernel, {} as GPUBindGroup, count);
  assert.deepEqual(sent, [[1, 1], [65535, 1], [32768, 2], [43691, 3], [65360, 153]]);
  for (const [index, [x, y]] of sent.entries()) {
    const count = counts[index + 1]!;
    assert.ok(x * y >= count && x * y < count + y && x <= 65535 && y <= 65535);
  }
});
