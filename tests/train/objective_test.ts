import {
  lossAndGradients,
  LOSSES,
  type Objective,
  type ProducerSizes,
  type ProducerValues,
  teacherOf,
} from "../../src/train/objective.ts";
import { IMPORTANCE_PAIRS } from "../../src/butler/predictor/turns.ts";
import { Draws } from "../../src/train/draws.ts";
import { assert } from "std-testing";

const SIZES: ProducerSizes = {
  hiddenSize: 6,
  inner: 5,
  served: 2,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 8,
  rows: 3,
  tokens: 14,
};

/** Numbers from -scale to scale. */
function floats(draws: Draws, count: number, scale: number): Float64Array {
  return Float64Array.from({ length: count }, () => (2 * draws.next() - 1) * scale);
}

function madeUp(draws: Draws) {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = SIZES;
  const values: ProducerValues<Float64Array> = {
    up: floats(draws, inner * hiddenSize, 1),
    down: floats(draws, served * numHeads * 16 * inner, 2),
    keys: floats(draws, served * numKvHeads * headDim * 16, 0.7),
    gain: floats(draws, hiddenSize, 1),
    bias: floats(draws, hiddenSize, 1),
  };
  const window = {
    // The first row has no candidate.
    positions: [3, 9, 13],
    hidden: floats(draws, rows * hiddenSize, 3),
    queries: floats(draws, served * numHeads * rows * headDim, 2),
    keys: floats(draws, served * numKvHeads * tokens * headDim, 2),
  };
  // Pairs that stand still among some that turn.
  const turns = Int32Array.from(
    { length: served * numKvHeads * IMPORTANCE_PAIRS },
    (_, i) => i % 3 - 1,
  );
  return { values, window, turning: { turns, frequencies: [1, 0.07] } };
}

for (const loss of LOSSES) {
  Deno.test(`gradients of the loss ${loss} are those of finite differences`, () => {
    const objective: Objective = { loss, sinks: 2, window: 3 };
    const { values, turning, window } = madeUp(new Draws(5, LOSSES.indexOf(loss)));
    const teacher = teacherOf(SIZES, window, objective);
    const at = (changed: ProducerValues<Float64Array>) =>
      lossAndGradients(SIZES, changed, turning, window, teacher, objective).loss;
    const { gradients } = lossAndGradients(SIZES, values, turning, window, teacher, objective);
    const step = 1e-5;
    for (const name of ["up", "down", "keys", "gain", "bias"] as const) {
      for (let i = 0; i < values[name].length; i += 1 + Math.floor(values[name].length / 40)) {
        const moved = (by: number) => {
          const copy = values[name].slice();
          copy[i]! += by;
          return at({ ...values, [name]: copy });
        };
        const slope = (moved(step) - moved(-step)) / (2 * step);
        const found = gradients[name][i]!;
        const error = Math.abs(slope - found);
        assert.ok(error < 1e-7 + 1e-5 * Math.abs(slope), `${name}[${i}]: ${found}, not ${slope}`);
      }
    }
  });
}

Deno.test("the model's attention is normalised over candidates, and their part is known", () => {
  const objective: Objective = { loss: "candidates", sinks: 2, window: 3 };
  const { window } = madeUp(new Draws(6, 0));
  const { shares, mass } = teacherOf(SIZES, window, objective);
  const { rows, tokens, served, numHeads } = SIZES;
  for (let list = 0; list < served * numHeads; list++) {
    for (let row = 0; row < rows; row++) {
      const of = shares.subarray((list * rows + row) * tokens, (list * rows + row + 1) * tokens);
      const sum = of.reduce((a, b) => a + b, 0);
      const end = window.positions[row]! + 1 - 3;
      assert.ok(of.every((share, t) => (t >= 2 && t < end) === share > 0));
      assert.ok(Math.abs(sum - (row === 0 ? 0 : 1)) < 1e-12);
      assert.ok(row === 0 ? mass[list * rows] === 0 : mass[list * rows + row]! < 1);
    }
  }
  const full = teacherOf(SIZES, window, { ...objective, loss: "full" });
  assert.ok(full.mass.every((part) => Math.abs(part - 1) < 1e-12));
});

Deno.test("draws are a function of seed and stream, in range, and spread evenly", () => {
  assert.deepEqual(new Draws(1, 2).order(20), new Draws(1, 2).order(20));
  assert.notDeepEqual(new Draws(1, 2).order(20), new Draws(1, 3).order(20));
  assert.deepEqual(new Draws(4, 0).order(50).sort((a, b) => a - b), [...Array(50).keys()]);
  const rows = new Draws(7, 1).spread(100, 1000, 64);
  assert.ok(rows.every((row, i) => row >= 100 && row < 1000 && (i === 0 || row > rows[i - 1]!)));
  assert.deepEqual(new Draws(7, 1).spread(5, 9, 4), [5, 6, 7, 8]);
});
