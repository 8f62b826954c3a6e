import { assert, fc } from "std-testing";
import {
  BLOCK_GEOMETRY,
  bytesOfWeights,
  dequantizeRow,
  floatToHalf,
  halfToFloat,
} from "../../src/model/quants.ts";
import { WEIGHT_TYPES, type WeightType } from "../../src/model/types.ts";

interface Golden {
  readonly shape: readonly [number, number];
  readonly bytes_base64: string;
  readonly values: readonly number[];
}

const golden: Partial<Record<WeightType, Golden>> = JSON.parse(
  Deno.readTextFileSync(new URL("../data/quants/blocks.json", import.meta.url)),
);

for (const type of WEIGHT_TYPES) {
  if (type === "F32") continue;
  Deno.test(`dequantizeRow() gives the stored values of ${type} blocks`, () => {
    const entry = golden[type];
    assert.ok(entry, `no golden blocks of ${type}`);
    const [rows, cols] = entry.shape;
    const bytes = Uint8Array.fromBase64(entry.bytes_base64);
    assert.equal(bytes.length, rows * bytesOfWeights(type, cols));
    const out = new Float32Array(rows * cols);
    dequantizeRow(type, bytes, out);
    entry.values.forEach((want, i) => {
      assert.ok(Math.abs(out[i]! - want) <= 1e-6, `${type}[${i}]: got ${out[i]}, want ${want}`);
    });
  });
}

Deno.test("dequantizeRow() reads F32 and works on a view into a larger buffer", () => {
  const backing = new Uint8Array(20);
  new DataView(backing.buffer).setFloat32(4, -1.5, true);
  new DataView(backing.buffer).setFloat32(8, 1e-40, true);
  const out = new Float32Array(2);
  dequantizeRow("F32", backing.subarray(4, 12), out);
  assert.deepEqual([...out], [-1.5, Math.fround(1e-40)]);
});

Deno.test("dequantizeRow() keeps scales that are subnormal halves", () => {
  const block = new Uint8Array(34);
  block[0] = 1; // The smallest half, 2^-24.
  block[2] = 127;
  block[3] = 0x80;
  const out = new Float32Array(32);
  dequantizeRow("Q8_0", block, out);
  assert.equal(out[0], 127 * 2 ** -24);
  assert.equal(out[1], -128 * 2 ** -24);
});

Deno.test("dequantizeRow() refuses lengths that do not belong together", () => {
  for (const type of WEIGHT_TYPES) {
    const { weights, bytes } = BLOCK_GEOMETRY[type];
    assert.throws(
      () => dequantizeRow(type, new Uint8Array(bytes + 1), new Float32Array(weights)),
      RangeError,
    );
    if (weights > 1) {
      assert.throws(
        () => dequantizeRow(type, new Uint8Array(bytes), new Float32Array(weights - 1)),
        RangeError,
      );
    }
  }
});

Deno.test("floatToHalf() and halfToFloat() undo each other for every finite half", () => {
  for (let bits = 0; bits < 0x10000; bits++) {
    if ((bits & 0x7c00) === 0x7c00) continue;
    assert.equal(floatToHalf(halfToFloat(bits)), bits);
  }
  assert.equal(halfToFloat(0x7c00), Infinity);
  assert.ok(Number.isNaN(halfToFloat(0x7e00)));
});

Deno.test("floatToHalf() picks the nearest half", () => {
  fc.assert(
    fc.property(fc.double({ min: -65504, max: 65504, noNaN: true }), (x) => {
      const got = halfToFloat(floatToHalf(x));
      for (const step of [-1, 1]) {
        const other = halfToFloat(floatToHalf(x) + step & 0xffff);
        if (Number.isFinite(other)) assert.ok(Math.abs(got - x) <= Math.abs(other - x));
      }
    }),
    { seed: 42, numRuns: 300 },
  );
});
