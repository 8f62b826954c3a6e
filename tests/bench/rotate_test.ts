import { assert, fc } from "std-testing";
import { type KeyValues, rotateKeys, turnOf } from "../../bench/_rotate.ts";
import type { RopeConfig } from "../../src/model/types.ts";
import { type RopeCase, rotateReference } from "../reference/rope.ts";

/** Half a unit in the last place of values below 2, and what double precision leaves. */
const ROUNDING = { f16: 2 ** -11 * 2, f32: 2 ** -24 * 2 };
/** The largest factor below. */
const FACTOR = 1.25;

function rope(pairing: RopeConfig["pairing"], dimensions: number, attentionFactor: number) {
  const inverseFrequencies = Array.from(
    { length: dimensions / 2 },
    (_, pair) => 10000 ** (-2 * pair / dimensions),
  );
  const config: RopeConfig = { dimensions, pairing, attentionFactor, inverseFrequencies };
  const reference: RopeCase = {
    pairing,
    rotary: dimensions,
    frequencies: inverseFrequencies,
    attentionFactor,
  };
  return { config, reference };
}

const values = (kvType: "f16" | "f32", from: readonly number[]): KeyValues =>
  kvType === "f16" ? Float16Array.from(from) : Float32Array.from(from);

for (const kvType of ["f16", "f32"] as const) {
  for (const pairing of ["half", "adjacent"] as const) {
    Deno.test(`rotateKeys() moves ${kvType} keys with ${pairing} pairs as RoPE would`, () => {
      fc.assert(
        fc.property(
          fc.constantFrom([64, 64], [20, 12], [2, 2], [96, 32]),
          fc.integer({ min: 0, max: 131072 }),
          fc.integer({ min: 0, max: 131072 }),
          fc.constantFrom(1, FACTOR),
          fc.integer({ min: 1, max: 5 }),
          fc.infiniteStream(fc.double({ min: -1, max: 1, noNaN: true })),
          ([headDim, dimensions], from, to, factor, rows, stream) => {
            const { config, reference } = rope(pairing!, dimensions!, factor);
            const raw = Array.from({ length: rows }, () => [...stream.take(headDim!)]);
            const at = raw.map((head) => rotateReference(head, from, reference));
            const wanted = raw.flatMap((head) => rotateReference(head, to, reference));
            const keys = values(kvType, at.flat());
            const out = values(kvType, new Array(keys.length).fill(0));
            rotateKeys(config, headDim!, turnOf(config, to - from), keys, out);
            // Rounded when they were stored, turned (which may add both errors), rounded again.
            const most = ROUNDING[kvType] * FACTOR * (1 + Math.SQRT2);
            for (const [i, value] of out.entries()) {
              assert.ok(Math.abs(value - wanted[i]!) <= most, `${value}, wanted ${wanted[i]}`);
            }
            // In place it gives the same bits.
            rotateKeys(config, headDim!, turnOf(config, to - from), keys, keys);
            assert.deepEqual(keys, out);
          },
        ),
        { numRuns: 60 },
      );
    });
  }
}

Deno.test("rotateKeys() by nothing changes nothing, and refuses lengths that do not fit", () => {
  const { config } = rope("half", 8, 1);
  const keys = Float32Array.from({ length: 24 }, (_, i) => i / 7);
  const out = new Float32Array(24);
  rotateKeys(config, 12, turnOf(config, 0), keys, out);
  assert.deepEqual(out, keys);
  assert.throws(() => rotateKeys(config, 16, turnOf(config, 1), keys, out), RangeError);
  assert.throws(
    () => rotateKeys(config, 12, turnOf(config, 1), keys, new Float32Array(12)),
    RangeError,
  );
});
