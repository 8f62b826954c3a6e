import { openDevice } from "../../src/gpu/device.ts";
import { Kernels, type KernelSpec } from "../../src/gpu/kernels.ts";
import { selectPlan } from "../../src/gpu/plan.ts";
import { selfTest } from "../../src/gpu/self_test.ts";
import { assert } from "std-testing";

/** Kernels whose sources a test may damage. */
class DamagedKernels extends Kernels {
  damage: readonly [from: string, to: string] = ["", ""];

  override source(spec: KernelSpec): string {
    return super.source(spec).replaceAll(...this.damage);
  }
}

Deno.test("selfTest() finds every kernel right, and its budget ends it", async () => {
  const { device, caps } = await openDevice();
  try {
    const kernels = new Kernels(device, caps);
    const plan = selectPlan(caps);
    const results = await selfTest(kernels, plan, 120_000);
    assert.deepEqual(results.filter(({ ok }) => !ok), []);
    const names = results.map(({ name }) => name);
    for (const name of ["product with one token", "norm", "attention over a prompt"]) {
      assert.ok(names.includes(name), name);
    }
    assert.ok(results.every(({ maxError, ms }) => maxError < 2e-3 && ms >= 0));
    const short = await selfTest(kernels, plan, -1);
    assert.equal(short.length, 1);
    assert.match(short[0]!.detail, /norm.*out of time/);
  } finally {
    device.destroy();
  }
});

Deno.test("selfTest() reports kernels that are wrong, and ones that do not compile", async () => {
  const { device, caps } = await openDevice();
  try {
    const plan = selectPlan(caps);
    const kernels = new DamagedKernels(device, caps);
    // As a driver would that takes small half-precision numbers for zero.
    kernels.damage = ["unpack2x16float(", "0.0 * unpack2x16float("];
    const flushed = await selfTest(kernels, plan, 120_000);
    const bad = flushed.find(({ name }) => name === "weights in Q8_0");
    assert.equal(bad?.ok, false);
    assert.match(bad.detail, /largest error 1\.0e\+0, at most/);
    assert.ok(flushed.find(({ name }) => name === "norm")?.ok);
    const broken = new DamagedKernels(device, caps);
    broken.damage = ["inverseSqrt(reduce_sum", "inverseRoot(reduce_sum"];
    const results = await selfTest(broken, plan, 120_000);
    const norm = results.find(({ name }) => name === "norm");
    assert.equal(norm?.ok, false);
    assert.match(norm.detail, /does not compile/);
  } finally {
    device.destroy();
  }
});
