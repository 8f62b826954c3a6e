import {
  isDeviceLayout,
  paddedCols,
  rowFileBytes,
  rowWords,
  toDeviceLayout,
  WEIGHT_LAYOUTS,
} from "../../src/gpu/weight_layout.ts";
import { BLOCK_GEOMETRY, bytesOfWeights } from "../../src/model/quants.ts";
import { WEIGHT_TYPES, type WeightType } from "../../src/model/types.ts";
import { Random } from "./_rig.ts";
import { assert } from "std-testing";

/** Bytes of a block on the device: padding goes where the layout says. */
function blockReference(type: WeightType, block: readonly number[]): number[] {
  const { words, padAfter } = WEIGHT_LAYOUTS[type];
  const padding = new Array<number>(words * 4 - block.length).fill(0);
  if (padAfter < 0) return [...block, ...padding];
  return [...block.slice(0, padAfter), ...padding, ...block.slice(padAfter)];
}

Deno.test("layouts agree with the formats' own sizes", () => {
  for (const type of WEIGHT_TYPES) {
    const { block, fileBytes, words } = WEIGHT_LAYOUTS[type];
    const geometry = BLOCK_GEOMETRY[type];
    assert.equal(fileBytes * geometry.weights, geometry.bytes * block, type);
    assert.ok(words * 4 >= fileBytes && words * 4 - fileBytes < 4, type);
    assert.equal(rowFileBytes(type, 512), bytesOfWeights(type, 512), type);
    assert.equal(rowWords(type, 512), words * 512 / block, type);
    assert.equal(isDeviceLayout(type, 512), words * 4 === fileBytes, type);
  }
});

Deno.test("rows of plain floats are padded to whole units", () => {
  assert.deepEqual([1, 8, 9, 36].map(paddedCols), [8, 8, 16, 40]);
  assert.equal(rowWords("F32", 36), 40);
  assert.equal(rowWords("F16", 36), 20);
  assert.equal(rowFileBytes("F16", 37), 74);
  assert.equal(isDeviceLayout("F16", 36), false);
  assert.equal(isDeviceLayout("F16", 40), true);
});

for (const type of WEIGHT_TYPES) {
  Deno.test(`toDeviceLayout() moves rows of ${type}, wherever the source lies in memory`, () => {
    const random = new Random(3);
    const { block, fileBytes, words } = WEIGHT_LAYOUTS[type];
    const floats = block === 8;
    for (const [rows, cols] of [[1, block], [3, block * 3], [7, floats ? 37 : block]] as const) {
      const fileRow = rowFileBytes(type, cols);
      const deviceRow = rowWords(type, cols) * 4;
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
          const line: number[] = [];
          if (floats) line.push(...bytes);
          else {
            for (let at = 0; at < fileRow; at += fileBytes) {
              line.push(...blockReference(type, bytes.slice(at, at + fileBytes)));
            }
          }
          while (line.length < deviceRow) line.push(0);
          want.push(...line);
        }
        assert.equal(want.length, rows * deviceRow);
        const where = `${rows} x ${cols}, offset ${offset}, ${words} words a block`;
        assert.deepEqual(Array.from(target), want, where);
        assert.ok([...whole.subarray(0, 8), ...whole.subarray(-8)].every((b) => b === 0), where);
      }
    }
  });
}

Deno.test("toDeviceLayout() refuses arrays that are too short", () => {
  const row = rowFileBytes("Q4_0", 64);
  const words = rowWords("Q4_0", 64) * 4;
  const convert = (source: number, target: number) =>
    toDeviceLayout("Q4_0", 2, 64, new Uint8Array(source), new Uint8Array(target));
  convert(2 * row, 2 * words);
  assert.throws(() => convert(2 * row - 1, 2 * words), /2 rows of Q4_0 do not fit/);
  assert.throws(() => convert(2 * row, 2 * words - 4), /2 rows of Q4_0 do not fit/);
});
