/**
 * How fast is this machine at this moment? A scalar loop in JavaScript on one thread, which depends
 * on nothing that is measured here. Benchmarks on shared machines print it beside their figures:
 * two figures with different calibrations cannot be compared.
 *
 * @module
 */

import { type Moment, now, since } from "./_clock.ts";

const SIZE = 2048;

let data: { matrix: Float32Array; x: Float32Array; y: Float32Array } | undefined;

function makeData() {
  const matrix = new Float32Array(SIZE * SIZE);
  for (let i = 0; i < matrix.length; i++) matrix[i] = (i % 7) - 3;
  const x = Float32Array.from({ length: SIZE }, (_, i) => i % 5);
  return { matrix, x, y: new Float32Array(SIZE) };
}

/** Time of a 2048 x 2048 f32 mat-vec in plain JavaScript: the least of `repeats`. */
export function calibrate(repeats = 5): Moment {
  if (data === undefined) {
    data = makeData();
    // Until the compiler has optimised the loop its times say nothing.
    for (let i = 0; i < 5; i++) multiply(data.matrix, data.x, data.y);
  }
  let best: Moment = { wallMs: Infinity, cpuMs: Infinity };
  for (let i = 0; i < repeats; i++) {
    const began = now();
    multiply(data.matrix, data.x, data.y);
    const { wallMs, cpuMs } = since(began);
    best = { wallMs: Math.min(best.wallMs, wallMs), cpuMs: Math.min(best.cpuMs, cpuMs) };
  }
  return best;
}

function multiply(matrix: Float32Array, x: Float32Array, y: Float32Array): void {
  for (let row = 0; row < SIZE; row++) {
    let sum = 0;
    const base = row * SIZE;
    for (let col = 0; col < SIZE; col++) sum += matrix[base + col]! * x[col]!;
    y[row] = sum;
  }
}
