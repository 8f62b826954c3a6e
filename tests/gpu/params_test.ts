import { defineParams } from "../../src/gpu/params.ts";
import { assert } from "std-testing";

Deno.test("defineParams() writes members in order, as their types, in whole vec4s", () => {
  const struct = defineParams("Mixed", { count: "u32", shift: "i32", factor: "f32" });
  assert.equal(struct.wgsl, "struct Mixed {\n  count: u32,\n  shift: i32,\n  factor: f32,\n}\n");
  assert.equal(struct.size, 16);
  assert.deepEqual(struct.members, ["count", "shift", "factor"]);
  const words = struct.pack({ factor: 0.5, shift: -2, count: 0xffffffff });
  assert.deepEqual(Array.from(words), [0xffffffff, 0xfffffffe, 0x3f000000, 0]);
});

Deno.test("defineParams() rounds the size up to 16 bytes", () => {
  const sizes = [1, 4, 5, 8, 9].map((count) =>
    defineParams(
      "S",
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`m${i}`, "u32" as const])),
    ).size
  );
  assert.deepEqual(sizes, [16, 16, 32, 32, 48]);
});

Deno.test("pack() refuses what is no integer where one belongs", () => {
  const struct = defineParams("S", { rows: "u32", offset: "i32", eps: "f32" });
  const good = { rows: 1, offset: 0, eps: 1e-5 };
  for (const bad of [1.5, NaN, Infinity]) {
    assert.throws(() => struct.pack({ ...good, rows: bad }), /^RangeError: S\.rows must be an int/);
    assert.throws(() => struct.pack({ ...good, offset: bad }), /S\.offset must be an integer/);
  }
  assert.equal(new Float32Array(struct.pack(good).buffer)[2], Math.fround(1e-5));
});
