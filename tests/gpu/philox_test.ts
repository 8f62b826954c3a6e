import { philox4x32, uniformOf } from "../../src/gpu/ops/philox.ts";
import { assert } from "std-testing";

Deno.test("philox4x32() gives the published vectors", () => {
  const ones = 0xffffffff;
  assert.deepEqual(philox4x32([0, 0, 0, 0], [0, 0]), [
    0x6627e8d5,
    0xe169c58d,
    0xbc57ac4c,
    0x9b00dbd8,
  ]);
  assert.deepEqual(philox4x32([ones, ones, ones, ones], [ones, ones]), [
    0x408f276d,
    0x41c83b0e,
    0xa20bc7c6,
    0x6d5451fd,
  ]);
  assert.deepEqual(
    philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

Deno.test("uniformOf() depends on seed and step and fits a 32-bit float", () => {
  const seen = new Set<number>();
  let sum = 0;
  for (let seed = 0; seed < 40; seed++) {
    for (let step = 0; step < 50; step++) {
      const value = uniformOf(seed, step);
      assert.ok(value >= 0 && value < 1);
      assert.equal(Math.fround(value), value);
      assert.equal(uniformOf(seed, step), value);
      seen.add(value);
      sum += value;
    }
  }
  assert.ok(seen.size >= 1999);
  assert.ok(Math.abs(sum / 2000 - 0.5) < 0.02);
});
