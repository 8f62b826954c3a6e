import { assert } from "std-testing";
import {
  longropeAttentionFactor,
  ropeConfig,
  ropeForContext,
  type RopeScaling,
  yarnAttentionFactor,
} from "../../src/model/rope.ts";

function frequencies(theta: number, dimensions: number, scaling: RopeScaling) {
  return ropeConfig({ dimensions, pairing: "half", theta, scaling, contextLength: 1024 });
}

function assertClose(got: readonly number[], want: Readonly<Record<number, number>>): void {
  for (const [i, value] of Object.entries(want)) {
    const found = got[Number(i)]!;
    assert.ok(Math.abs(found / value - 1) < 1e-9, `[${i}]: got ${found}, want ${value}`);
  }
}

Deno.test("ropeConfig() without scaling gives the geometric series", () => {
  const { inverseFrequencies, attentionFactor } = frequencies(10_000, 8, { type: "none" });
  assert.equal(attentionFactor, 1);
  assertClose(inverseFrequencies, { 0: 1, 1: 0.1, 2: 0.01, 3: 0.001 });
  assert.equal(inverseFrequencies.length, 4);
});

Deno.test("ropeConfig() divides by a linear factor and by divisors", () => {
  const source = { dimensions: 4, pairing: "half", theta: 100, contextLength: 8 } as const;
  assertClose(
    ropeConfig({ ...source, scaling: { type: "linear", factor: 4 } }).inverseFrequencies,
    {
      0: 0.25,
      1: 0.025,
    },
  );
  const divided = ropeConfig({ ...source, scaling: { type: "none" }, divisors: [2, 5] });
  assertClose(divided.inverseFrequencies, { 0: 0.5, 1: 0.02 });
});

// Expected numbers of the next two come from a separate calculation of the published rules.
Deno.test("ropeConfig() follows Llama 3.1", () => {
  const rope = frequencies(500_000, 128, {
    type: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalContext: 8192,
  });
  assert.equal(rope.attentionFactor, 1);
  assertClose(rope.inverseFrequencies.map((f) => Number(f.toPrecision(10))), {
    0: 1,
    20: 0.01656044008,
    28: 0.003211445995,
    30: 0.001371893568,
    34: 0.0001785078128,
    36: 7.784655274e-05,
    63: 3.068925989e-07,
  });
});

Deno.test("ropeConfig() follows YaRN", () => {
  const rope = frequencies(1e6, 128, {
    type: "yarn",
    factor: 4,
    originalContext: 32768,
    betaFast: 32,
    betaSlow: 1,
    attentionFactor: yarnAttentionFactor(4),
    truncate: true,
  });
  assertClose([rope.attentionFactor], { 0: 1.138629436111989 });
  assertClose(rope.inverseFrequencies.map((f) => Number(f.toPrecision(10))), {
    0: 1,
    20: 0.01333521432,
    24: 0.005375321491,
    30: 0.001064360981,
    39: 6.490394321e-05,
    40: 4.445698525e-05,
    63: 3.102344402e-07,
  });
});

Deno.test("ropeForContext() picks LongRoPE's short factors up to the original context", () => {
  const scaling: RopeScaling = {
    type: "longrope",
    short: [1, 2],
    long: [4, 8],
    originalContext: 100,
    attentionFactor: longropeAttentionFactor(10, 100),
  };
  const source = { dimensions: 4, pairing: "half", theta: 100, scaling } as const;
  const rope = ropeConfig({ ...source, contextLength: 1000 });
  assertClose([rope.attentionFactor], { 0: Math.sqrt(1.5) });
  assertClose(rope.inverseFrequencies, { 0: 1 / 4, 1: 0.1 / 8 });
  assertClose(ropeForContext(rope, 100).inverseFrequencies, { 0: 1, 1: 0.05 });
  assertClose(ropeForContext(rope, 101).inverseFrequencies, { 0: 1 / 4, 1: 0.1 / 8 });
  assert.equal(ropeForContext(rope, 100).short, undefined);

  const never = ropeConfig({ ...source, contextLength: 100 });
  assertClose(never.inverseFrequencies, { 0: 1, 1: 0.05 });
  assert.equal(never.short, undefined);
  assert.deepEqual(ropeForContext(never, 1000), never);
});
