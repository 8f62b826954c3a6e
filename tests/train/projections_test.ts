/** The closed form, on windows whose queries are known linear maps of their hidden states. */
import {
  IMPORTANCE_PAIRS,
  ropePair,
  STILL,
  turnQueries,
} from "../../src/butler/predictor/turns.ts";
import { IMPORTANCE_DIM } from "../../src/butler/predictor/shape.ts";
import { Draws } from "../../src/train/draws.ts";
import { measure } from "../../src/train/measure.ts";
import { normalized, type ObjectiveWindow, type ProducerSizes } from "../../src/train/objective.ts";
import {
  anglesAt,
  projectionsOf,
  type RopePairs,
  unturnedQuery,
} from "../../src/train/projections.ts";
import { startOf } from "../../src/train/start.ts";
import { assert } from "std-testing";

const SIZES: ProducerSizes = {
  hiddenSize: 24,
  inner: 64,
  served: 1,
  numHeads: 2,
  numKvHeads: 1,
  headDim: IMPORTANCE_DIM,
  rows: 60,
  tokens: 400,
};

function ropeOf(pairing: RopePairs["pairing"], frequencies: readonly number[]): RopePairs {
  return { dimensions: 2 * frequencies.length, pairing, inverseFrequencies: frequencies };
}

/** From turns in a few tokens to none in all. */
const FREQUENCIES = [1, 0.3, 0.1, 0.03, 1e-3, 1e-5, 1e-6, 1e-7];

/** Windows of random states and keys; queries before RoPE are a linear map of the states. */
function windowsOf(
  sizes: ProducerSizes,
  rope: RopePairs,
  count: number,
  seed: number,
): ObjectiveWindow[] {
  const { hiddenSize, numHeads, headDim, rows, tokens } = sizes;
  const maps = new Draws(7, 1);
  const map = Array.from({ length: numHeads * headDim * hiddenSize }, () => 2 * maps.next() - 1);
  return Array.from({ length: count }, (_, index) => {
    const draws = new Draws(seed, 100 + index);
    const floats = (length: number) => Float64Array.from({ length }, () => 2 * draws.next() - 1);
    const hidden = floats(rows * hiddenSize);
    const positions = draws.spread(150, tokens, rows);
    const x = normalized(hidden, hiddenSize);
    const queries = new Float64Array(numHeads * rows * headDim);
    for (let head = 0; head < numHeads; head++) {
      for (let row = 0; row < rows; row++) {
        const at = (head * rows + row) * headDim;
        for (let d = 0; d < headDim; d++) {
          for (let i = 0; i < hiddenSize; i++) {
            queries[at + d]! += x[row * hiddenSize + i]! *
              map[(head * headDim + d) * hiddenSize + i]!;
          }
        }
        rope.inverseFrequencies.forEach((frequency, pair) => {
          const [a, b] = ropePair(rope, pair);
          const angle = positions[row]! * frequency;
          const [u, v] = [queries[at + a]!, queries[at + b]!];
          queries[at + a] = u * Math.cos(angle) - v * Math.sin(angle);
          queries[at + b] = u * Math.sin(angle) + v * Math.cos(angle);
        });
      }
    }
    return { positions, hidden, queries, keys: floats(tokens * headDim) };
  });
}

for (const pairing of ["half", "adjacent"] as const) {
  Deno.test(`pairs that RoPE turns fast are turned, ${pairing}`, () => {
    const rope = ropeOf(pairing, FREQUENCIES);
    const windows = windowsOf(SIZES, rope, 12, 3);
    const [{ turns, query, key }] = projectionsOf(SIZES, rope, 2, () => windows) as [
      ReturnType<typeof projectionsOf>[number],
    ];
    const turning = turns.filter((turn) => turn !== STILL);
    assert.ok([0, 1, 2, 3].every((pair) => turning.includes(pair)), `${turns}`);

    // A head of 16 dimensions has room for all of its scores: nothing is lost.
    const { positions, queries, keys } = windows[0]!;
    const { headDim, rows } = SIZES;
    const row = 5;
    const at = row * headDim;
    const unturned = unturnedQuery(queries, at, headDim, rope, anglesAt(rope, positions[row]!));
    const projected = Array.from({ length: IMPORTANCE_DIM }, (_, j) => {
      let sum = 0;
      for (let d = 0; d < headDim; d++) {
        const value = j < 2 * turning.length ? unturned[d]! : queries[at + d]!;
        sum += value * query.get(d, j);
      }
      return sum;
    });
    assert.equal(turns.length, IMPORTANCE_PAIRS);
    const own = { turns: Int32Array.from(turns), frequencies: rope.inverseFrequencies };
    turnQueries(projected, 0, own, 1, positions[row]!);
    assert.ok(row < rows);
    for (const t of [0, 17, 140]) {
      let real = 0;
      let short = 0;
      for (let d = 0; d < headDim; d++) real += queries[at + d]! * keys[t * headDim + d]!;
      for (let j = 0; j < IMPORTANCE_DIM; j++) {
        let value = 0;
        for (let d = 0; d < headDim; d++) value += keys[t * headDim + d]! * key.get(d, j);
        short += value * projected[j]!;
      }
      const [wanted, found] = [real / Math.sqrt(headDim), short / Math.sqrt(IMPORTANCE_DIM)];
      assert.ok(Math.abs(wanted - found) < 1e-6 * (1 + Math.abs(wanted)), `${wanted}, ${found}`);
    }
  });
}

Deno.test("a producer in closed form finds rows of queries that are linear in its states", () => {
  const rope = ropeOf("half", FREQUENCIES);
  const windows = windowsOf(SIZES, rope, 12, 3);
  const { values, turning } = startOf(SIZES, rope, 2, () => windows);
  const held = windowsOf(SIZES, rope, 2, 4);
  const kept = { budget: 32, steps: 4 };
  const settings = { sinks: 2, window: 8, budget: 32, counts: [8], kept };
  const [head] = measure(SIZES, values, turning, held, settings);
  assert.ok(head!.recall > 0.95, `${head!.recall}`);
  const stuck = { ...turning, turns: turning.turns.map(() => STILL) };
  const [blind] = measure(SIZES, values, stuck, held, settings);
  assert.ok(blind!.recall < 0.7, `${blind!.recall}`);
});

Deno.test("a head whose queries change misses more with what an earlier row chose", () => {
  const rope = ropeOf("half", FREQUENCIES.map(() => 1e-7));
  const windows = windowsOf(SIZES, rope, 12, 3);
  const { values, turning } = startOf(SIZES, rope, 2, () => windows);
  const held = windowsOf(SIZES, rope, 4, 4);
  const near = 5;
  const kept = { budget: 24, steps: near };
  const settings = { sinks: 2, window: 8, budget: 32, counts: [8], kept };
  const keptOf = (windows: readonly ObjectiveWindow[], more = kept) =>
    measure(SIZES, values, turning, windows, { ...settings, kept: more })[0]!.kept!;
  const restless = keptOf(held);
  const pairs = held.flatMap(({ positions }) =>
    Array.from(positions).filter((at, row, all) => row > 0 && at - all[row - 1]! <= near)
  );
  assert.ok(pairs.length > 50);
  assert.equal(restless.rows, pairs.length);
  assert.ok(restless.missedKept > 1.2 * restless.missedFresh, JSON.stringify(restless));
  // The same query in every row: earlier rows chose as well, and their neighbours come on top.
  const { hiddenSize, numHeads, rows, headDim } = SIZES;
  const calm = keptOf(held.map((window) => ({
    ...window,
    hidden: Float64Array.from(
      { length: rows * hiddenSize },
      (_, i) => window.hidden[i % hiddenSize]!,
    ),
    queries: Float64Array.from(
      { length: numHeads * rows * headDim },
      (_, i) => window.queries[Math.floor(i / (rows * headDim)) * rows * headDim + i % headDim]!,
    ),
  })));
  assert.ok(calm.missedFresh > 0.01 && calm.missedKept < calm.missedFresh, JSON.stringify(calm));
  // Nothing is missed by who keeps all.
  const all = keptOf(held, { budget: SIZES.tokens, steps: near });
  assert.ok(all.missedFresh < 1e-4 && all.missedKept < 1e-4, JSON.stringify(all));
  assert.equal(
    measure(SIZES, values, turning, held.slice(0, 1), {
      ...settings,
      kept: { budget: 24, steps: 0 },
    })[0]!.kept,
    null,
  );
});
