import {
  isDeviceLayout,
  paddedCols,
  rowBytes,
  rowFileBytes,
  rowVecs,
  toDeviceLayout,
  WEIGHT_LAYOUTS,
} from "../../src/gpu/weight_layout.ts";
import { BLOCK_GEOMETRY, bytesOfWeights } from "../../src/model/quants.ts";
import { WEIGHT_TYPES, type WeightType } from "../../src/model/types.ts";
import { Random } from "./_rig.ts";
import { assert } from "std-testing";

/** A row on the device, put together block by block, before padding at its end. */
function rowReference(type: WeightType, row: readonly number[]): number[] {
  const { block, fileBytes, parts } = WEIGHT_LAYOUTS[type];
  if (block === 8) return [...row];
  const blocks: number[][] = [];
  for (let at = 0; at < row.length; at += fileBytes) blocks.push(row.slice(at, at + fileBytes));
  if (parts === undefined) {
    const padded = Math.ceil(fileBytes / 16) * 16;
    return blocks.flatMap((bytes) => [...bytes, ...new Array<number>(padded - fileBytes).fill(0)]);
  }
  const high = parts.scales * 2;
  const values = high + parts.high * 2;
  return [
    ...blocks.flatMap((bytes) => bytes.slice(values)),
    ...blocks.flatMap((bytes) => bytes.slice(high, values)),
    ...blocks.flatMap((bytes) => bytes.slice(0, high)),
  ];
}

Deno.test("layouts agree with the formats' own sizes", () => {
  for (const type of WEIGHT_TYPES) {
    const { block, fileBytes, parts } = WEIGHT_LAYOUTS[type];
    const geometry = BLOCK_GEOMETRY[type];
    assert.equal(fileBytes * geometry.weights, geometry.bytes * block, type);
    if (parts) assert.equal((parts.scales + parts.high + parts.values) * 2, fileBytes, type);
    assert.equal(rowFileBytes(type, 512), bytesOfWeights(type, 512), type);
    assert.equal(rowBytes(type, 512), rowVecs(type, 512) * 16, type);
    // Never more than a vec4u a row, or one a block of a K-quant, over the file's size.
    const slack = rowBytes(type, 512) - rowFileBytes(type, 512);
    assert.ok(slack >= 0 && slack < (block === 256 ? 2 * 16 : 16), `${type}: ${slack}`);
  }
});

Deno.test("rows of plain floats are padded to whole quads", () => {
  assert.deepEqual([1, 32, 33, 100].map(paddedCols), [32, 32, 64, 128]);
  assert.equal(rowVecs("F32", 36), 16);
  assert.equal(rowVecs("F16", 36), 8);
  assert.equal(rowFileBytes("F16", 37), 74);
  assert.equal(isDeviceLayout("F16", 36), false);
  assert.equal(isDeviceLayout("F16", 64), true);
  assert.equal(isDeviceLayout("Q4_K", 512), true);
  assert.equal(isDeviceLayout("Q6_K", 512), false);
  assert.equal(isDeviceLayout("Q4_1", 512), false);
});

for (const type of WEIGHT_TYPES) {
  Deno.test(`toDeviceLayout() moves rows of ${type}, wherever the source lies in memory`, () => {
    const random = new Random(3);
    const { block } = WEIGHT_LAYOUTS[type];
    const floats = block === 8;
    for (const [rows, cols] of [[1, block], [3, block * 3], [7, floats ? 37 : block]] as const) {
      const fileRow = rowFileBytes(type, cols);
      const deviceRow = rowBytes(type, cols);
      for (const offset of [0, 1, 2, 3]) {
        const memory = new Uint8Array(offset + rows * fileRow + 5);
        for (let i = 0; i < memory.length; i++) memory[i] = random.int(1, 255);
        // More than the rows: what follows must not be copied, nor overwritten.
        const source = memory.subarray(offset);
        const whole = new Uint8Array(8 + rows * deviceRow + 8).fill(0);
        const target = whole.subarray(8, 8 + rows * deviceRow);
        toDeviceLayout(type, rows, cols, source, target);
        const want: number[] = [];
        for (let row = 0; row < rows; row++) {
          const bytes = Array.from(source.subarray(row * fileRow, (row + 1) * fileRow));
          const line = rowReference(type, bytes);
          while (line.length < deviceRow) line.push(0);
          want.push(...line);
        }
        assert.equal(want.length, rows * deviceRow);
        const where = `${rows} x ${cols}, offset ${offset}`;
        assert.deepEqual(Array.from(target), want, where);
        assert.ok([...whole.subarray(0, 8), ...whole.subarray(-8)].every((b) => b === 0), where);
      }
    }
  });
}

Deno.test("toDeviceLayout() refuses arrays that are too short", () => {
  const row = rowFileBytes("Q4_0", 64);
  const words = rowBytes("Q4_0", 64);
  const convert = (source: number, target: number) =>
    toDeviceLayout("Q4_0", 2, 64, new Uint8Array(source), new Uint8Array(target));
  convert(2 * row, 2 * words);
  assert.throws(() => convert(2 * row - 1, 2 * words), /2 rows of Q4_0 do not fit/);
  assert.throws(() => convert(2 * row, 2 * words - 4), /2 rows of Q4_0 do not fit/);
});
