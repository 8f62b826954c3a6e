import { openDevice } from "../../src/gpu/device.ts";
import { Readback } from "../../src/gpu/readback.ts";
import { assert } from "std-testing";

/** Runs a body with a device and a buffer that holds the bytes 0, 1, 2 ... */
async function withSource(
  size: number,
  body: (device: GPUDevice, source: GPUBuffer) => Promise<void>,
): Promise<void> {
  const { device } = await openDevice();
  const source = device.createBuffer({
    size,
    usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  try {
    await body(device, source);
  } finally {
    source.destroy();
    device.destroy();
  }
}

function fill(device: GPUDevice, source: GPUBuffer, seed: number): Uint8Array {
  const bytes = Uint8Array.from({ length: source.size }, (_, i) => (i * 7 + seed) & 255);
  device.queue.writeBuffer(source, 0, bytes);
  return bytes;
}

Deno.test("Readback reads synchronously in Deno", async () => {
  await withSource(64, async (device, source) => {
    using readback = await Readback.create(device, 64);
    assert.equal(readback.mode, "sync");
    const want = fill(device, source, 3);
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(source, 0, readback.target, 0, 64);
    device.queue.submit([encoder.finish()]);
    const got = readback.read(64);
    assert.ok(got instanceof Uint8Array);
    assert.deepEqual(got, want);
  });
});

for (const mode of ["sync", "awaited"] as const) {
  Deno.test(`Readback, ${mode}, gives the bytes of each step, of any size`, async () => {
    await withSource(4096, async (device, source) => {
      using readback = await Readback.create(device, 4096, mode);
      assert.equal(readback.mode, mode);
      for (const [step, size] of [4, 8, 12, 16, 100, 4092, 4096].entries()) {
        const want = fill(device, source, step);
        const got = await readback.copyAndRead(source, 0, size);
        assert.equal(got.length, size);
        assert.deepEqual(Array.from(got), Array.from(want.subarray(0, size)), `${size} bytes`);
      }
      const want = fill(device, source, 77);
      const part = await readback.copyAndRead(source, 1024, 40);
      assert.deepEqual(Array.from(part), Array.from(want.subarray(1024, 1064)));
    });
  });

  Deno.test(`Readback, ${mode}, hands out bytes that later reads leave alone`, async () => {
    await withSource(32, async (device, source) => {
      using readback = await Readback.create(device, 32, mode);
      const want = Array.from(fill(device, source, 1));
      const first = await readback.copyAndRead(source, 0, 32);
      fill(device, source, 2);
      await readback.copyAndRead(source, 0, 32);
      assert.deepEqual(Array.from(first), want);
    });
  });
}

Deno.test("Readback reads many times without a pause", async () => {
  await withSource(16, async (device, source) => {
    using readback = await Readback.create(device, 16, "sync");
    for (let step = 0; step < 500; step++) {
      device.queue.writeBuffer(source, 0, Uint32Array.of(step, ~step));
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(source, 0, readback.target, 0, 8);
      device.queue.submit([encoder.finish()]);
      const got = readback.read(8);
      assert.ok(got instanceof Uint8Array);
      assert.deepEqual(Array.from(new Uint32Array(got.buffer)), [step, ~step >>> 0]);
    }
  });
});

Deno.test("Readback rounds its size up to whole words", async () => {
  await withSource(16, async (device) => {
    using readback = await Readback.create(device, 5);
    assert.equal(readback.size, 16);
    assert.equal(readback.target.size, 16);
  });
});

Deno.test("Readback falls back to waiting where reading at once fails", async () => {
  await withSource(32, async (device, source) => {
    const { getMappedRange } = GPUBuffer.prototype;
    let calls = 0;
    // As in a runtime that maps only while it is waited for.
    GPUBuffer.prototype.getMappedRange = function (offset?: number, size?: number): ArrayBuffer {
      if (calls++ === 0) throw new DOMException("not mapped", "OperationError");
      return getMappedRange.call(this, offset, size);
    };
    try {
      using readback = await Readback.create(device, 32);
      assert.equal(readback.mode, "awaited");
      const want = Array.from(fill(device, source, 3));
      const got = await readback.copyAndRead(source, 0, 32);
      assert.deepEqual(Array.from(got), want);
    } finally {
      GPUBuffer.prototype.getMappedRange = getMappedRange;
    }
  });
});
