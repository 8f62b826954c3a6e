import type { SampleSpec } from "../../src/engine/runner_types.ts";
import { uniformOf } from "../../src/gpu/ops/philox.ts";
import {
  adjustReference,
  filterReference,
  intervalsReference,
  missReference,
} from "../reference/sample.ts";
import { GREEDY_SPEC, modelLogits, SampleRig, VARIANTS } from "./_sampling.ts";
import { assert } from "std-testing";

/** Random numbers this close to where another token begins may give that one. */
const DRAW_MARGIN = 1e-5;
/** Candidates at the edge of a filter that differ by less may be swapped. */
const EDGE_MARGIN = 1e-5;
/** Error of a cumulative mass: an id more or less may be kept where it decides. */
const MASS_ERROR = 5e-6;

const BANS = [3, 0, 6].map((id) => ({ id, bias: 0, scale: 1, add: -Infinity }));
const PENALTIES = [1, 2, 4, 5].map((id) => ({ id, bias: 1.5 - id, scale: 1.3, add: -0.25 * id }));

/** At this temperature all that is left is nearly equally likely: a draw tells its rank. */
const HOT = 1e4;

const RULES: Readonly<Record<string, Partial<SampleSpec>>> = {
  plain: { temperature: 1 },
  cold: { temperature: 0.3 },
  "plain, hot": { temperature: HOT },
  "penalties and bans": { temperature: 1.2, adjustments: [...BANS, ...PENALTIES] },
  "top-k 1": { temperature: 1, topK: 1 },
  "top-k 5, hot": { temperature: HOT, topK: 5 },
  "top-k 40": { temperature: 0.8, topK: 40 },
  "top-k 600, hot": { temperature: HOT, topK: 600 },
  "top-p 0": { temperature: HOT, topP: 0 },
  "top-p, hot": { temperature: HOT, topP: 0.6 },
  "top-p 0.95": { temperature: 1, topP: 0.95 },
  "top-p 0.9999, hot": { temperature: HOT, topP: 0.9999 },
  "typical, hot": { temperature: HOT, typicalP: 0.5 },
  "typical 0": { temperature: HOT, typicalP: 0 },
  "typical 0.95": { temperature: 1, typicalP: 0.95 },
  "min-p, hot": { temperature: HOT, minP: 0.02 },
  "min-p 1": { temperature: HOT, minP: 1 },
  "all together": { temperature: 0.9, topK: 60, typicalP: 0.9, topP: 0.9, minP: 0.03 },
  "all together, hot": { temperature: HOT, topK: 500, typicalP: 0.8, topP: 0.9, minP: 0.01 },
  "without top-k, hot": { temperature: HOT, typicalP: 0.9, topP: 0.9, minP: 0.01 },
  "all with adjustments": {
    temperature: 1.5,
    topK: 50,
    typicalP: 0.97,
    topP: 0.97,
    minP: 0.01,
    adjustments: [...BANS, ...PENALTIES],
  },
};

const ROWS = 10;

type Intervals = ReturnType<typeof intervalsReference>;

/** What the reference says of one rule. */
interface Expectation {
  readonly name: string;
  readonly spec: SampleSpec;
  /** Where a mass decides by a hair, fewer or more ids may be kept; mostly these are the same. */
  readonly narrow: Intervals;
  readonly wide: Intervals;
  /** Share of the ids that are in one only. */
  readonly unsure: number;
}

/** What is to be drawn by each rule; rules that hang on the order of nearly equal ids are left out. */
function expectations(
  logits: Float32Array,
  rules: Readonly<Record<string, Partial<SampleSpec>>>,
): Expectation[] {
  return Object.entries(rules).flatMap(([name, rule]) => {
    const adjustments = (rule.adjustments ?? []).filter(({ id }) => id < logits.length);
    const spec = { ...GREEDY_SPEC, ...rule, adjustments };
    const adjusted = adjustReference(logits, adjustments);
    const fewer = filterReference(adjusted, spec, -MASS_ERROR);
    const more = filterReference(adjusted, spec, MASS_ERROR);
    if (Math.min(fewer.margin, more.margin) < EDGE_MARGIN) return [];
    const narrow = intervalsReference(fewer.kept, spec.temperature);
    const wide = intervalsReference(more.kept, spec.temperature);
    const unsure = [...wide].reduce(
      (sum, [id, [start, end]]) => narrow.has(id) ? sum : sum + end - start,
      0,
    );
    return [{ name, spec, narrow, wide, unsure }];
  });
}

/** Draws from the same logits with many seeds and compares each with the reference. */
async function compare(
  rig: SampleRig,
  overrides: Readonly<Record<string, string>>,
  logits: Float32Array<ArrayBuffer>,
  wanted: readonly Expectation[],
  where: string,
): Promise<void> {
  using sampler = await rig.sampler(overrides);
  rig.write(Array.from({ length: rig.maxRows }, () => logits));
  for (const { name, spec, narrow, wide, unsure } of wanted) {
    const specs = Array.from({ length: rig.maxRows }, (_, row) => ({
      ...spec,
      seed: row * 7919 + rig.vocab,
      step: row % 5,
    }));
    const got = await rig.run(sampler, specs);
    got.forEach(({ token }, row) => {
      const random = uniformOf(specs[row]!.seed, specs[row]!.step);
      const miss = Math.min(
        missReference(narrow, token, random),
        missReference(wide, token, random),
      );
      assert.ok(
        miss <= DRAW_MARGIN + unsure,
        `${where}, ${name}, row ${row}, ${narrow.size} to ${wide.size} kept, u ${random}: ` +
          `got ${token}, off by ${miss}`,
      );
    });
  }
}

for (const vocab of [1, 7, 63, 129, 1000, 49152]) {
  Deno.test(`Sampler draws as the reference does, every filter and variant, vocabulary ${vocab}`, async () => {
    using rig = await SampleRig.create(vocab, ROWS);
    const logits = modelLogits(vocab, 1000 + vocab);
    const wanted = expectations(logits, RULES);
    assert.ok(wanted.length >= 0.85 * Object.keys(RULES).length, `${wanted.length} rules left`);
    for (const [variant, overrides] of Object.entries(VARIANTS)) {
      await compare(rig, overrides, logits, wanted, `${variant}, vocabulary ${vocab}`);
    }
  });
}

Deno.test("Sampler keeps the lower ids among equal logits, every filter and variant", async () => {
  const vocab = 700;
  const rules: Record<string, Partial<SampleSpec>> = {
    "top-k": { temperature: HOT, topK: 37 },
    "top-p": { temperature: HOT, topP: 0.351 },
    typical: { temperature: HOT, typicalP: 0.2512 },
    "top-k then top-p": { temperature: HOT, topK: 90, topP: 0.4521 },
    "all three": { temperature: HOT, topK: 300, typicalP: 0.7013, topP: 0.6017 },
  };
  using rig = await SampleRig.create(vocab, ROWS);
  const shapes = {
    flat: new Float32Array(vocab).fill(1.5),
    steps: Float32Array.from({ length: vocab }, (_, id) => Math.floor((id * 7919) % 5)),
    "mostly zero": Float32Array.from({ length: vocab }, (_, id) => id % 101 === 0 ? 3 : 0),
  };
  for (const [shape, logits] of Object.entries(shapes)) {
    const wanted = expectations(logits, rules);
    assert.ok(wanted.length >= 4, `${shape}: ${wanted.length} rules left`);
    for (const [variant, overrides] of Object.entries(VARIANTS)) {
      await compare(rig, overrides, logits, wanted, `${variant}, ${shape}`);
    }
  }
});

Deno.test("Sampler goes on from what is left when the typical rule drops the likeliest", async () => {
  const vocab = 200;
  using rig = await SampleRig.create(vocab, ROWS);
  const logits = Float32Array.from({ length: vocab }, (_, id) => id === 50 ? 5 : -(id % 20) / 37);
  const rules = {
    "typical and min-p": { temperature: HOT, typicalP: 0.3, minP: 0.9 },
    "typical, top-p and min-p": { temperature: HOT, typicalP: 0.3, topP: 0.777, minP: 0.95 },
  };
  const wanted = expectations(logits, rules);
  assert.equal(wanted.length, 2);
  assert.ok(wanted.every(({ wide }) => !wide.has(50) && wide.size > 5));
  for (const [variant, overrides] of Object.entries(VARIANTS)) {
    await compare(rig, overrides, logits, wanted, variant);
  }
});

Deno.test("Sampler filters distributions that are too flat for the short list", async () => {
  const vocab = 5000;
  using rig = await SampleRig.create(vocab, ROWS);
  const logits = modelLogits(vocab, 99).map((logit) => logit * 0.05);
  const rules = {
    "top-k": { temperature: HOT, topK: 2500 },
    "top-p": { temperature: HOT, topP: 0.8 },
    typical: { temperature: HOT, typicalP: 0.8 },
    all: { temperature: HOT, topK: 4000, typicalP: 0.9, topP: 0.9, minP: 0.5 },
  };
  const wanted = expectations(logits, rules);
  assert.ok(wanted.length >= 3, `${wanted.length} rules left`);
  for (const [variant, overrides] of Object.entries(VARIANTS)) {
    await compare(rig, overrides, logits, wanted, variant);
  }
});

Deno.test("Sampler looks at every entry of a large vocabulary, however often", async () => {
  // Software adapters end loops that have made too many turns.
  const vocab = 151936;
  using rig = await SampleRig.create(vocab, 2);
  const flat = modelLogits(vocab, 7).map((logit) => logit * 0.02);
  const steps = flat.map((logit) => Math.round(logit * 100) / 100);
  const rules = {
    all: { temperature: HOT, topK: 150000, typicalP: 0.95, topP: 0.95, minP: 0.6 },
    "top-p": { temperature: HOT, topP: 0.9 },
  };
  await compare(rig, {}, flat, expectations(flat, { "top-p": rules["top-p"] }), "flat");
  const wanted = expectations(steps, rules);
  assert.equal(wanted.length, 2);
  await compare(rig, {}, steps, wanted, "steps");
});

Deno.test("Sampler draws in proportion to the probabilities", async () => {
  const vocab = 8;
  const rows = 64;
  using rig = await SampleRig.create(vocab, rows);
  const shares = [0.3, 0.05, 0.2, 0.1, 0, 0.15, 0.12, 0.08];
  const logits = Float32Array.from(shares, (share) => share === 0 ? -Infinity : Math.log(share));
  rig.write(Array.from({ length: rows }, () => logits));
  using sampler = await rig.sampler();
  const counts = new Array<number>(vocab).fill(0);
  const steps = 40;
  for (let step = 0; step < steps; step++) {
    const specs = Array.from({ length: rows }, (_, seed) => ({
      ...GREEDY_SPEC,
      temperature: 1,
      seed,
      step,
    }));
    for (const { token } of await rig.run(sampler, specs)) counts[token]!++;
  }
  const total = rows * steps;
  const chiSquare = shares.reduce(
    (sum, share, id) =>
      share === 0 ? sum : sum + (counts[id]! - share * total) ** 2 / (share * total),
    0,
  );
  assert.equal(counts[4], 0);
  // 99.9 % of fair samples with six degrees of freedom stay below.
  assert.ok(chiSquare < 22.46, `chi square ${chiSquare}, counts ${counts}`);
});

Deno.test("Sampler gives the same results for the same rows, alone or together", async () => {
  const vocab = 2000;
  const mixed: Partial<SampleSpec>[] = [
    {},
    { temperature: 1, topP: 0.9, logprobs: 4 },
    { temperature: 0.7, seed: 5, step: 3 },
    { forced: 77, logprobs: 0 },
    { temperature: 1, topK: 20, adjustments: BANS, logprobs: 20 },
    { adjustments: PENALTIES },
    { temperature: 2, typicalP: 0.8, seed: 8 },
  ];
  const specs = mixed.map((change) => ({ ...GREEDY_SPEC, ...change }));
  using rig = await SampleRig.create(vocab, specs.length);
  const logits = specs.map((_, row) => modelLogits(vocab, row + 40));
  for (const overrides of Object.values(VARIANTS)) {
    using sampler = await rig.sampler(overrides);
    rig.write(logits);
    const together = await rig.run(sampler, specs);
    assert.deepEqual(await rig.run(sampler, specs), together);
    for (const [row, spec] of specs.entries()) {
      rig.write([logits[row]!]);
      assert.deepEqual((await rig.run(sampler, [spec]))[0], together[row], `row ${row}`);
    }
  }
});
