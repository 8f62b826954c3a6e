import { splitText, takeSamples } from "../../src/train/samples.ts";
import { rateAt, TRAIN_DEFAULTS, type TrainSettings } from "../../src/train/settings.ts";
import { assert, fc } from "std-testing";

const SETTINGS: TrainSettings = {
  ...TRAIN_DEFAULTS,
  tokens: 256,
  rows: 32,
  windows: 5,
  heldOut: 3,
  heldOutTokens: 192,
  heldOutRows: 16,
  tableTokens: 256,
};
/** Words of a text: each has its place in it. */
const textOf = (first: number, count: number) =>
  Array.from({ length: count }, (_, i) => `w${first + i}`).join(" ");
const encode = (text: string) => [...text.matchAll(/\d+/g)].map(([digits]) => Number(digits));
const TEXTS = [textOf(0, 20_000), textOf(1e6, 30_000)];
const BOS = -1;

Deno.test("a text is cut into what is learnt, what is measured on and what is never seen", () => {
  fc.assert(fc.property(fc.string({ unit: "grapheme", maxLength: 400 }), (text) => {
    const { train, heldOut, unseen } = splitText(text);
    assert.equal(train + heldOut + unseen, text);
  }));
  const { train, heldOut, unseen } = splitText(TEXTS[0]!);
  assert.deepEqual([train, heldOut, unseen].flatMap(encode), Array.from(Array(20_000).keys()));
  for (const [part, share] of [[train, 0.9], [heldOut, 0.05], [unseen, 0.05]] as const) {
    assert.ok(Math.abs(part.length / TEXTS[0]!.length - share) < 0.001);
  }
});

Deno.test("windows to learn from and to measure on share nothing, with each other or with eval's", () => {
  const { train, heldOut, table } = takeSamples(TEXTS, encode, [BOS], SETTINGS);
  assert.deepEqual([train, heldOut, table].map(({ length }) => length), [5, 3, 3]);
  const words = (windows: typeof train) => new Set(windows.flatMap(({ ids }) => ids.slice(1)));
  const [learnt, measured] = [words(train), words([...heldOut, ...table])];
  const kept = new Set(TEXTS.flatMap((text) => encode(splitText(text).unseen)));
  assert.ok(learnt.isDisjointFrom(measured));
  assert.ok(kept.isDisjointFrom(learnt) && kept.isDisjointFrom(measured));
  // Both texts are in all of them.
  for (const some of [learnt, measured]) {
    assert.ok([...some].some((word) => word < 1e6) && [...some].some((word) => word >= 1e6));
  }
  const kinds = [
    { windows: train, length: 256, rows: 32, first: 4 + 32 + 64 },
    { windows: heldOut, length: 192, rows: 16, first: 96 },
    { windows: table, length: 256, rows: 16, first: 128 },
  ];
  for (const { windows, length, rows, first } of kinds) {
    for (const { ids, positions } of windows) {
      assert.deepEqual([ids.length, ids[0], positions.length], [length, BOS, rows]);
      positions.forEach((at, i) => {
        assert.ok(at >= first && at < length && at > (positions[i - 1] ?? -1));
      });
    }
  }
});

Deno.test("the seed decides on the rows that are learnt", () => {
  const take = (seed: number) => takeSamples(TEXTS, encode, [BOS], { ...SETTINGS, seed });
  assert.deepEqual(take(3), take(3));
  const [some, other] = [take(3), take(4)];
  assert.deepEqual(some.train.map(({ ids }) => ids), other.train.map(({ ids }) => ids));
  assert.notDeepEqual(some.train, other.train);
  // Where sizes are equal the same windows serve for all budgets.
  const { heldOut, table } = takeSamples(TEXTS, encode, [], { ...SETTINGS, tableTokens: 192 });
  assert.equal(table, heldOut);
});

Deno.test("text that is shorter than a window is refused, and it is said for what", () => {
  const short = (text: string, more: Partial<TrainSettings> = {}) => () =>
    takeSamples([text], encode, [BOS], { ...SETTINGS, ...more });
  const cases = [
    [short(textOf(0, 1000)), /measuring needs a window of 192 tokens near its end/],
    [short(textOf(0, 4500)), /measuring needs a window of 256 tokens near its end/],
    [short(textOf(0, 6000), { tokens: 8192 }), /training needs a window of 8192 tokens\./],
  ] as const;
  for (const [take, message] of cases) assert.throws(take, { code: "no_text", message });
  assert.throws(short(""), { code: "no_text" });
});

Deno.test("the rate rises evenly, then falls along half a cosine", () => {
  const of = { rate: 2, warmup: 0.1 };
  const rates = Array.from({ length: 100 }, (_, step) => rateAt(of, step, 100));
  assert.deepEqual(rates.slice(0, 10), [0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2]);
  assert.equal(rates[10], 2);
  assert.ok(Math.abs(rates[55]! - 1) < 1e-12);
  assert.ok(rates.slice(10).every((rate, i, all) => i === 0 || rate < all[i - 1]!));
  assert.ok(rates.at(-1)! > 0 && rates.at(-1)! < 0.01);
  assert.equal(rateAt(of, 0, 1), 2);
});
