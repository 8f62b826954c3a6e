import { Product, type ProductOptions } from "../../src/engine/product.ts";
import { WeightStore } from "../../src/engine/weights.ts";
import { DeviceError } from "../../src/gpu/device.ts";
import { Kernels } from "../../src/gpu/kernels.ts";
import { selectPlan } from "../../src/gpu/plan.ts";
import { STEP_PARAMS } from "../../src/gpu/step_params.ts";
import { paddedCols, rowBytes } from "../../src/gpu/weight_layout.ts";
import type { WeightTensor, WeightType } from "../../src/model/types.ts";
import { assertClose, F32_BOUNDS, Random, Rig, untouched } from "../gpu/_rig.ts";
import { randomStored, type Stored, unpacked } from "../gpu/_weights.ts";
import { matmulReference } from "../reference/matmul.ts";
import { assert } from "std-testing";

function tensorOf(name: string, stored: Stored): WeightTensor {
  return {
    name,
    type: stored.type,
    rows: stored.rows,
    cols: stored.cols,
    byteLength: stored.bytes.length,
    readInto(target, offset) {
      target.set(stored.bytes.subarray(offset, offset + target.length));
      return Promise.resolve();
    },
  };
}

/** Kernels of a device whose bindings hold at most `bytes`. */
function limited(rig: Rig, bytes: number): Kernels {
  return new Kernels(rig.kernels.device, { ...rig.caps, maxBindingSize: bytes });
}

/** Uploads, multiplies for some token counts, and compares each. */
async function check(
  rig: Rig,
  kernels: Kernels,
  stored: readonly Stored[],
  epilogue: ProductOptions["epilogue"],
  parts: number,
): Promise<void> {
  const { type, cols } = stored[0]!;
  const rows = stored.reduce((sum, s) => sum + s.rows, 0);
  const outRows = epilogue === "swiglu" ? rows / 2 : rows;
  let uploaded = 0;
  using weights = new WeightStore(kernels, (bytes) => uploaded += bytes);
  const tensors = stored.map((s, i) => tensorOf(`t${i}`, s));
  const matrix = await weights.matrix("m", tensors);
  assert.equal(matrix.parts.length, parts, `${type}: parts`);
  assert.equal(uploaded, stored.reduce((sum, s) => sum + s.bytes.length, 0));
  assert.ok(weights.sizeBytes >= rows * rowBytes(type, cols));
  const random = new Random(rows);
  const tokens = 9;
  const xStride = paddedCols(cols);
  const yStride = outRows + 4;
  const x = random.floats(tokens * xStride);
  // Small tiles: quick to compile, and their rows do not divide the matrices.
  const plan = selectPlan(rig.caps, {
    matvecRows: "4",
    matmulRows: "4",
    laneRows: String(2 * rig.subgroup || 8),
    ...(rig.subgroup === 0 ? {} : { laneTiles: String(rig.subgroup) }),
  });
  for (const count of [1, 3, tokens]) {
    const y = untouched(tokens * yStride);
    const out = rig.storage(y);
    const step = rig.uniform(
      STEP_PARAMS.pack({ num_rows: count, first_row: 0, num_splits: 1, logits_row: 0 }),
    );
    using product = await Product.create(kernels, plan, {
      matrix,
      x: rig.storage(x),
      y: out,
      yStride,
      yOffset: 4,
      epilogue,
      step: { buffer: step, offset: 0, size: STEP_PARAMS.size },
    });
    const encoder = kernels.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    product.encode(pass, count, 0);
    pass.end();
    kernels.device.queue.submit([encoder.finish()]);
    const want = matmulReference({
      weights: stored.flatMap((s) => Array.from(unpacked(s))),
      x,
      y,
      rows: outRows,
      cols,
      tokens: count,
      xStride,
      yStride,
      rowOffset: 4,
      epilogue,
    });
    const got = await rig.floats(out, y.length);
    assertClose(got, want, F32_BOUNDS, `${type}, ${parts} parts, ${count} tokens`);
  }
}

const CASES: readonly [WeightType, cols: number][] = [["Q4_1", 64], ["Q6_K", 256], ["F16", 44]];

for (const [type, cols] of CASES) {
  Deno.test(`Product multiplies a ${type} matrix in one part, in several, and joined`, async () => {
    using rig = await Rig.create();
    const random = new Random(8);
    const size = rowBytes(type, cols);
    const whole = randomStored(type, 57, cols, random);
    await check(rig, limited(rig, 2 ** 20), [whole], "store", 1);
    // 16 rows a part, and room for a few more that must not be used.
    await check(rig, limited(rig, size * 18), [whole], "store", 4);
    const pair = [1, 2].map(() => randomStored(type, 21, cols, random));
    await check(rig, limited(rig, 2 ** 20), pair, "swiglu", 1);
    const three = [32, 7, 7].map((rows) => randomStored(type, rows, cols, random));
    await check(rig, limited(rig, 2 ** 20), three, "store", 1);
    await check(rig, limited(rig, size * 16), three, "store", 3);
  });
}

Deno.test("WeightStore joins only what fits one binding and has type and columns in common", async () => {
  using rig = await Rig.create();
  const random = new Random(2);
  const of = (type: WeightType, rows: number, cols: number) =>
    tensorOf("t", randomStored(type, rows, cols, random));
  using weights = new WeightStore(limited(rig, 102 * rowBytes("Q4_1", 64)), () => {});
  assert.equal(weights.canJoin([of("Q4_1", 50, 64), of("Q4_1", 52, 64)]), true);
  assert.equal(weights.canJoin([of("Q4_1", 50, 64), of("Q4_1", 53, 64)]), false);
  assert.equal(weights.canJoin([of("Q4_1", 2, 64), of("Q4_0", 2, 64)]), false);
  assert.equal(weights.canJoin([of("F32", 2, 64), of("F32", 2, 72)]), false);
});

Deno.test("WeightStore keeps joined rows in one part, whatever their number", async () => {
  using rig = await Rig.create();
  const random = new Random(5);
  // The rows fill the binding, and their number is no multiple of any tile.
  const pair = [1, 2].map(() => randomStored("Q4_1", 51, 64, random));
  const kernels = limited(rig, 102 * rowBytes("Q4_1", 64));
  using weights = new WeightStore(kernels, () => {});
  assert.equal(weights.canJoin(pair.map((s) => tensorOf("t", s))), true);
  await check(rig, kernels, pair, "swiglu", 1);
});

Deno.test("WeightStore refuses a row that no binding can hold", async () => {
  using rig = await Rig.create();
  using weights = new WeightStore(limited(rig, 1024), () => {});
  const tensor = tensorOf("t", randomStored("F32", 3, 4096, new Random(1)));
  const error = await weights.matrix("huge", [tensor]).catch((e) => e);
  assert.ok(error instanceof DeviceError);
  assert.equal(error.code, "too_small");
  assert.match(error.message, /a row of huge/);
});

Deno.test("WeightStore unpacks vectors to f32, without gaps and with zeros at the end", async () => {
  using rig = await Rig.create();
  using weights = new WeightStore(rig.kernels, () => {});
  const random = new Random(6);
  const stored = [randomStored("F16", 1, 5, random), randomStored("BF16", 1, 16, random)];
  const buffer = await weights.vector("v", stored.map((s) => tensorOf("t", s)));
  const length = paddedCols(21);
  assert.equal(buffer.size, length * 4);
  const values = stored.flatMap((s) => Array.from(unpacked(s)));
  const want = [...values, ...new Array<number>(length - 21).fill(0)];
  assert.deepEqual(Array.from(await rig.floats(buffer, length)), want);
});
