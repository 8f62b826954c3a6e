import type { LogitAdjustment, SampleSpec } from "../../src/engine/runner_types.ts";
import { LEAST_LOGPROB } from "../../src/gpu/ops/sample.ts";
import { logprobsReference, topReference } from "../reference/sample.ts";
import { GREEDY_SPEC, modelLogits, randomOf, SampleRig, VARIANTS } from "./_sampling.ts";
import { assert } from "std-testing";

const SIZES = [1, 2, 7, 63, 129, 1000, 49152];

/** Largest error of a log-probability. */
const LOGPROB_ERROR = 1e-4;
/** Neighbours closer than this may change places. */
const ORDER_GAP = 1e-5;

interface Wanted {
  readonly logprobs: readonly number[];
  /** Likeliest first. */
  readonly order: readonly number[];
}

function wantedOf(logits: Float32Array): Wanted {
  const logprobs = logprobsReference(logits);
  return { logprobs, order: topReference(logprobs, 20) };
}

function checkReport(
  { logprobs: want, order }: Wanted,
  token: number,
  top: number,
  got: { id: number; logprob: number; top: readonly { id: number; logprob: number }[] } | null,
  where: string,
): void {
  assert.ok(got !== null, where);
  assert.equal(got.id, token, where);
  assert.ok(Math.abs(got.logprob - want[token]!) < LOGPROB_ERROR, `${where}: logprob`);
  assert.equal(got.top.length, Math.min(top, want.length), where);
  got.top.forEach(({ id, logprob }, n) => {
    assert.ok(Math.abs(logprob - want[id]!) < LOGPROB_ERROR, `${where}: top ${n}`);
    const gap = Math.abs(want[id]! - want[order[n]!]!);
    assert.ok(id === order[n] || (gap > 0 && gap < ORDER_GAP), `${where}: top ${n} is ${id}`);
  });
}

Deno.test("Sampler takes the largest logit and reports log-probabilities, every variant", async () => {
  for (const vocab of SIZES) {
    using rig = await SampleRig.create(vocab, 3);
    const rows = [1, 2, 3].map((seed) => modelLogits(vocab, seed * 77 + vocab));
    rig.write(rows);
    const wanted = rows.map((logits) => ({
      ...wantedOf(logits),
      largest: topReference(Array.from(logits), 1)[0]!,
    }));
    for (const [variant, overrides] of Object.entries(VARIANTS)) {
      using sampler = await rig.sampler(overrides);
      for (const logprobs of [null, 0, 5, 20]) {
        const got = await rig.run(sampler, rows.map(() => ({ ...GREEDY_SPEC, logprobs })));
        wanted.forEach((want, row) => {
          const where = `${variant}, vocab ${vocab}, row ${row}, logprobs ${logprobs}`;
          assert.equal(got[row]!.token, want.largest, where);
          if (logprobs === null) assert.equal(got[row]!.logprob, null);
          else checkReport(want, want.largest, logprobs, got[row]!.logprob, where);
        });
      }
    }
  }
});

Deno.test("Sampler takes the lowest id among equal logits", async () => {
  const vocab = 1000;
  using rig = await SampleRig.create(vocab, 2);
  const flat = new Float32Array(vocab).fill(-2.5);
  const peaks = modelLogits(vocab, 5);
  for (const id of [301, 777, 999]) peaks[id] = 50;
  rig.write([flat, peaks]);
  for (const overrides of Object.values(VARIANTS)) {
    using sampler = await rig.sampler(overrides);
    const got = await rig.run(
      sampler,
      [GREEDY_SPEC, GREEDY_SPEC].map((spec) => ({
        ...spec,
        logprobs: 20,
      })),
    );
    assert.equal(got[0]!.token, 0);
    assert.deepEqual(got[0]!.logprob!.top.map(({ id }) => id), Array.from(Array(20).keys()));
    assert.equal(got[1]!.token, 301);
    assert.deepEqual(got[1]!.logprob!.top.slice(0, 3).map(({ id }) => id), [301, 777, 999]);
  }
});

Deno.test("Sampler applies bans, penalties and bias, and leaves the logits as they were", async () => {
  const vocab = 1001;
  using rig = await SampleRig.create(vocab, 4);
  const logits = modelLogits(vocab, 11);
  const order = topReference(Array.from(logits), 3);
  const [first, second, third] = order as [number, number, number];
  rig.write([logits, logits, logits, logits]);
  const before = await rig.read(rig.logits, 4 * vocab * 4);
  const lists: LogitAdjustment[][] = [
    [{ id: first, bias: 0, scale: 1, add: -Infinity }, {
      id: second,
      bias: 0,
      scale: 1,
      add: -1000,
    }],
    // The logit is positive, so that it is divided.
    [{ id: first, bias: 0, scale: 100, add: 0 }],
    [{ id: 7, bias: 100, scale: 1, add: 0 }, { id: first, bias: 0, scale: 1, add: 50 }],
    // A ban holds whatever the scale does.
    [{ id: first, bias: 0, scale: 0, add: -Infinity }],
  ];
  for (const overrides of Object.values(VARIANTS)) {
    using sampler = await rig.sampler(overrides);
    const specs = lists.map((adjustments) => ({ ...GREEDY_SPEC, adjustments, logprobs: 3 }));
    const got = await rig.run(sampler, specs);
    assert.deepEqual(got.map(({ token }) => token), [third, second, 7, second]);
    got.forEach(({ token, logprob }, row) => {
      // Under the model's own distribution, whatever the adjustments are.
      checkReport(wantedOf(logits), token, 3, logprob, `row ${row}`);
    });
    assert.deepEqual(await rig.read(rig.logits, 4 * vocab * 4), before);
  }
});

Deno.test("Sampler multiplies a negative logit by the repetition penalty", async () => {
  using rig = await SampleRig.create(3, 1);
  rig.write([Float32Array.of(-1, -1.5, -4)]);
  using sampler = await rig.sampler();
  const adjustments = [{ id: 0, bias: 0, scale: 2, add: 0 }];
  const [got] = await rig.run(sampler, [{ ...GREEDY_SPEC, adjustments }]);
  assert.equal(got!.token, 1);
});

Deno.test("Sampler adds the bias before the penalties", async () => {
  using rig = await SampleRig.create(3, 3);
  const logits = Float32Array.of(-1, -1.5, -4);
  rig.write([logits, logits, logits]);
  using sampler = await rig.sampler();
  const lists: LogitAdjustment[][] = [
    // (-1 + 1.8) / 4 is 0.2; with the bias last it would be -1 * 4 + 1.8, below the second's.
    [{ id: 0, bias: 1.8, scale: 4, add: 0 }, { id: 1, bias: 1.6, scale: 1, add: 0 }],
    // (-4 + 6) / 4 - 1 is -0.5, above the first; with the bias last it would be -16 + 5.
    [{ id: 2, bias: 6, scale: 4, add: -1 }],
    // 0.5 - 2.2 is below the first; with all added before the scale it would be -0.2 * 4, above it.
    [{ id: 2, bias: 6, scale: 4, add: -2.2 }],
  ];
  const got = await rig.run(sampler, lists.map((adjustments) => ({ ...GREEDY_SPEC, adjustments })));
  assert.deepEqual(got.map(({ token }) => token), [0, 2, 0]);
});

Deno.test("Sampler takes more adjustments than it first had room for", async () => {
  const vocab = 3000;
  using rig = await SampleRig.create(vocab, 2);
  const logits = modelLogits(vocab, 3);
  rig.write([logits, logits]);
  using sampler = await rig.sampler();
  const survivor = 1234;
  const adjustments = Array.from(Array(vocab).keys()).filter((id) => id !== survivor)
    .map((id) => ({ id, bias: 0, scale: 1, add: -Infinity }));
  for (const temperature of [0, 1]) {
    const spec = { ...GREEDY_SPEC, temperature, adjustments };
    const got = await rig.run(sampler, [spec, GREEDY_SPEC]);
    assert.equal(got[0]!.token, survivor);
    assert.equal(got[1]!.token, topReference(Array.from(logits), 1)[0]);
  }
});

Deno.test("Sampler takes a forced token and reports its log-probability", async () => {
  const vocab = 129;
  using rig = await SampleRig.create(vocab, 2);
  const logits = modelLogits(vocab, 21);
  rig.write([logits, logits]);
  for (const overrides of Object.values(VARIANTS)) {
    using sampler = await rig.sampler(overrides);
    const adjustments = [{ id: 100, bias: 0, scale: 1, add: -Infinity }];
    const spec = { ...GREEDY_SPEC, forced: 100, adjustments, temperature: 1, topK: 3 };
    const got = await rig.run(sampler, [{ ...spec, logprobs: 2 }, spec]);
    assert.equal(got[0]!.token, 100);
    checkReport(wantedOf(logits), 100, 2, got[0]!.logprob, "forced");
    assert.deepEqual(got[1], { token: 100, logprob: null });
  }
});

Deno.test("Sampler writes each token to the slot of its row", async () => {
  const vocab = 63;
  using rig = await SampleRig.create(vocab, 4);
  rig.write([1, 2, 3, 4].map((seed) => modelLogits(vocab, seed)));
  using sampler = await rig.sampler();
  rig.open.device.queue.writeBuffer(rig.lastTokens, 0, new Uint32Array(8).fill(4242));
  const forced = [11, 12, 13, 14];
  const specs = forced.map((id) => ({ ...GREEDY_SPEC, forced: id }));
  await rig.runBytes(sampler, specs, [6, -1, 0, 3]);
  const tokens = new Uint32Array((await rig.read(rig.lastTokens, 32)).slice().buffer);
  assert.deepEqual([...tokens], [13, 4242, 4242, 14, 4242, 4242, 11, 4242]);
});

Deno.test("Sampler stays in range on NaN, infinite and huge logits", async () => {
  const vocab = 300;
  const random = randomOf(9);
  const wild = Float32Array.from({ length: vocab }, () => {
    const kinds = [NaN, Infinity, -Infinity, 3e38, -3e38, 1e-42, random()];
    return kinds[Math.floor(random() * kinds.length)]!;
  });
  const oneNumber = new Float32Array(vocab).fill(NaN);
  oneNumber[17] = -5;
  const rows = [
    wild,
    new Float32Array(vocab).fill(NaN),
    new Float32Array(vocab).fill(-Infinity),
    new Float32Array(vocab).fill(Infinity),
    oneNumber,
  ];
  const rules: Partial<SampleSpec>[] = [
    {},
    { temperature: 1 },
    { temperature: 1e-30 },
    { temperature: 1, topK: 5 },
    { temperature: 1, topP: 0.5 },
    { temperature: 1, typicalP: 0.5 },
    { temperature: 1, minP: 0.5 },
    { temperature: 1, topK: 50, typicalP: 0, topP: 0, minP: 1 },
  ];
  using rig = await SampleRig.create(vocab, rows.length);
  rig.write(rows);
  for (const overrides of Object.values(VARIANTS)) {
    using sampler = await rig.sampler(overrides);
    for (const rule of rules) {
      const spec = { ...GREEDY_SPEC, ...rule, logprobs: 20 };
      const got = await rig.run(sampler, rows.map(() => spec));
      const where = JSON.stringify(rule);
      for (const { token, logprob } of got) {
        assert.ok(token < vocab, where);
        assert.equal(new Set(logprob!.top.map(({ id }) => id)).size, 20, where);
        for (const entry of [logprob!, ...logprob!.top]) {
          assert.ok(entry.logprob <= 0 && entry.logprob >= LEAST_LOGPROB, where);
        }
      }
      assert.equal(wild[got[0]!.token]! > 1e30, true, where);
      assert.equal(got[1]!.token, 0, where);
      assert.equal(got[4]!.token, 17, where);
    }
  }
});

Deno.test("Sampler.prepare() refuses what is out of range", async () => {
  using rig = await SampleRig.create(63, 2);
  using sampler = await rig.sampler();
  const prepare = (change: Partial<SampleSpec>) => () =>
    sampler.prepare([{ slot: 0, spec: { ...GREEDY_SPEC, ...change } }]);
  assert.throws(prepare({ forced: 63 }), RangeError);
  assert.throws(prepare({ forced: -1 }), RangeError);
  assert.throws(prepare({ logprobs: 21 }), RangeError);
  assert.throws(prepare({ adjustments: [{ id: 63, bias: 0, scale: 1, add: 0 }] }), RangeError);
  const row = { slot: 0, spec: GREEDY_SPEC };
  assert.throws(() => sampler.prepare([row, row, row]), RangeError);
});
