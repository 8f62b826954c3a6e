import { CalibrationError } from "../../src/butler/calibration/errors.ts";
import { KeyMoments } from "../../src/butler/calibration/moments.ts";
import { principalComponents } from "../../src/butler/calibration/principal.ts";
import { seededRandom } from "../_model_files.ts";
import { assert } from "std-testing";

/** Normally distributed numbers. */
function gaussian(seed: number): () => number {
  const random = seededRandom(seed);
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** An orthonormal basis: columns of (dim, dim). */
function basis(dim: number, seed: number): number[][] {
  const normal = gaussian(seed);
  const columns: number[][] = [];
  while (columns.length < dim) {
    let column = Array.from({ length: dim }, normal);
    for (let pass = 0; pass < 2; pass++) {
      for (const other of columns) {
        const along = dot(column, other);
        column = column.map((value, i) => value - along * other[i]!);
      }
    }
    const length = Math.sqrt(dot(column, column));
    columns.push(column.map((value) => value / length));
  }
  return columns;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

/** sum over c of variances[c] * column c * column c transposed */
function symmetric(columns: readonly number[][], variances: readonly number[]): Float64Array {
  const dim = columns[0]!.length;
  const matrix = new Float64Array(dim * dim);
  columns.forEach((column, c) => {
    for (let i = 0; i < dim; i++) {
      for (let j = 0; j < dim; j++) matrix[i * dim + j]! += variances[c]! * column[i]! * column[j]!;
    }
  });
  return matrix;
}

function columnsOf(components: Float32Array, dim: number, count: number): number[][] {
  return Array.from(
    { length: count },
    (_, c) => Array.from({ length: dim }, (_, i) => components[i * count + c]!),
  );
}

function assertOrthonormal(columns: readonly number[][], bound = 1e-6): void {
  columns.forEach((a, i) =>
    columns.forEach((b, j) => {
      const off = Math.abs(dot(a, b) - (i === j ? 1 : 0));
      assert.ok(off <= bound, `columns ${i} and ${j} are off by ${off}`);
    })
  );
}

Deno.test("principalComponents() finds the directions of a known matrix in order", () => {
  for (const [dim, count] of [[16, 16], [64, 16], [80, 16], [128, 16], [256, 16]] as const) {
    const columns = basis(dim, dim);
    const variances = columns.map((_, c) => 3 / (1 + c));
    const found = principalComponents(symmetric(columns, variances), dim, count);
    const got = columnsOf(found.components, dim, count);
    assertOrthonormal(got);
    got.forEach((column, c) => {
      const off = Math.abs(Math.abs(dot(column, columns[c]!)) - 1);
      assert.ok(off < 1e-6, `${dim}: direction ${c} is off by ${off}`);
      const largest = column.reduce((a, b) => Math.abs(b) > Math.abs(a) ? b : a);
      assert.ok(largest > 0);
    });
    const kept = variances.slice(0, count).reduce((a, b) => a + b);
    const share = kept / variances.reduce((a, b) => a + b);
    assert.ok(Math.abs(found.share - share) < 1e-12);
  }
});

Deno.test("principalComponents() gives the same numbers for the same matrix", () => {
  const matrix = symmetric(basis(32, 5), Array.from({ length: 32 }, (_, c) => 1 + c % 3));
  const { components } = principalComponents(matrix, 32, 16);
  assert.deepEqual(principalComponents(matrix.slice(), 32, 16).components, components);
  assertOrthonormal(columnsOf(components, 32, 16));
});

Deno.test("principalComponents() copes with matrices of nothing, of low rank, and small ones", () => {
  const nothing = principalComponents(new Float64Array(64 * 64), 64, 16);
  assertOrthonormal(columnsOf(nothing.components, 64, 16));
  assert.equal(nothing.share, 1);
  const columns = basis(64, 9);
  const low = principalComponents(
    symmetric(columns.slice(0, 3), [5, 2, 1]),
    64,
    16,
  );
  assertOrthonormal(columnsOf(low.components, 64, 16));
  assert.ok(Math.abs(low.share - 1) < 1e-12);
  // Fewer dimensions than are asked for: all of them, then zeros.
  const small = principalComponents(symmetric(basis(8, 2), [8, 7, 6, 5, 4, 3, 2, 1]), 8, 16);
  const got = columnsOf(small.components, 8, 16);
  assertOrthonormal(got.slice(0, 8));
  assert.ok(got.slice(8).flat().every((value) => value === 0));
  assert.equal(small.share, 1);
});

Deno.test("KeyMoments gives the mean product of keys, in whatever pieces they come", () => {
  const dim = 24;
  const rows = 50;
  const normal = gaussian(4);
  const keys = Float32Array.from({ length: rows * dim }, () => 3 + normal());
  const whole = new KeyMoments(dim);
  whole.add(keys);
  const pieces = new KeyMoments(dim);
  pieces.add(keys.subarray(0, 7 * dim));
  pieces.add(keys.subarray(0, 0));
  pieces.add(keys.subarray(7 * dim));
  assert.equal(pieces.count, rows);
  const mean = whole.mean();
  assert.deepEqual(pieces.mean(), mean);
  for (let i = 0; i < dim; i++) {
    for (let j = 0; j < dim; j++) {
      let sum = 0;
      for (let r = 0; r < rows; r++) sum += keys[r * dim + i]! * keys[r * dim + j]!;
      assert.ok(Math.abs(mean[i * dim + j]! - sum / rows) < 1e-9);
    }
  }
});

Deno.test("components of keys keep the keys that lie in as many directions", () => {
  const dim = 48;
  const columns = basis(dim, 8).slice(0, 16);
  const normal = gaussian(6);
  const moments = new KeyMoments(dim);
  const keys = Array.from({ length: 300 }, () => {
    const weights = columns.map(() => 2 + normal());
    return Array.from(
      { length: dim },
      (_, i) => weights.reduce((sum, weight, c) => sum + weight * columns[c]![i]!, 0),
    );
  });
  moments.add(Float32Array.from(keys.flat()));
  const { components, share } = principalComponents(moments.mean(), dim, 16);
  assert.ok(share > 1 - 1e-9);
  const found = columnsOf(components, dim, 16);
  for (const key of keys.slice(0, 20)) {
    const projected = found.map((column) => dot(column, key));
    const back = Array.from(
      { length: dim },
      (_, i) => projected.reduce((sum, value, c) => sum + value * found[c]![i]!, 0),
    );
    key.forEach((value, i) => assert.ok(Math.abs(value - back[i]!) < 1e-4));
  }
});

Deno.test("a few keys, or one and the same, still give components at right angles", () => {
  const dim = 32;
  const normal = gaussian(7);
  const key = Array.from({ length: dim }, normal);
  for (const rows of [1, 5]) {
    for (const same of [true, false]) {
      const moments = new KeyMoments(dim);
      for (let r = 0; r < rows; r++) {
        moments.add(Float32Array.from(same ? key : Array.from({ length: dim }, normal)));
      }
      const { components, share } = principalComponents(moments.mean(), dim, 16);
      const found = columnsOf(components, dim, 16);
      assertOrthonormal(found);
      assert.ok(share > 1 - 1e-9);
      if (!same) continue;
      const along = Math.abs(dot(found[0]!, key)) / Math.sqrt(dot(key, key));
      assert.ok(Math.abs(along - 1) < 1e-6);
    }
  }
});

Deno.test("KeyMoments refuses what gives no components", () => {
  const none = { name: "CalibrationError", code: "bad_keys", message: /no keys/ };
  assert.throws(() => new KeyMoments(4).mean(), none);
  for (const bad of [NaN, Infinity]) {
    const moments = new KeyMoments(4);
    moments.add(Float32Array.of(1, 2, bad, 4));
    assert.throws(() => moments.mean(), (error) => {
      assert.ok(error instanceof CalibrationError);
      assert.match(error.message, /not finite: .*doctor/);
      return true;
    });
  }
  assert.throws(() => new KeyMoments(4).add(new Float32Array(6)), RangeError);
});
