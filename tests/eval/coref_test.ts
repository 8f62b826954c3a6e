import { FOODS, FRAMES, PLACES, SUMS, THOUGHTS } from "../../src/eval/coref/pools.ts";
import { makeStory, scoreNames, storyIds } from "../../src/eval/coref/stories.ts";
import { assert } from "std-testing";

/** Tokens as words with what comes before them. */
const encode = (text: string) => {
  const ids: number[] = [];
  for (const word of text.match(/ ?[^ ]+/g) ?? []) {
    // The name may fall into two, as in real vocabularies.
    for (const piece of word.match(/^ ?.{1,4}|.{1,4}/g)!) ids.push(hash(piece));
  }
  return ids;
};

function hash(text: string): number {
  let sum = 7;
  for (const letter of text) sum = Math.imul(sum, 31) + letter.codePointAt(0)! >>> 0;
  return sum;
}

Deno.test("pools hold no name twice, and no text names a place", () => {
  assert.equal(new Set(PLACES).size, PLACES.length);
  const texts = [
    ...THOUGHTS,
    ...FOODS,
    ...SUMS,
    ...FRAMES.flatMap((of) => [of.intro, of.question]),
  ];
  assert.equal(new Set(texts).size, texts.length);
  for (const place of PLACES) {
    assert.ok(!texts.some((text) => text.includes(place)), place);
  }
  for (const { intro, question } of FRAMES) {
    assert.match(intro, /[a-z]$/);
    assert.match(question, /[a-z]$/);
  }
});

Deno.test("a story depends on seed and index, and is as long as it has to be", () => {
  const count = (text: string) => encode(text).length;
  const story = makeStory(1, 3, 384, count);
  assert.deepEqual(makeStory(1, 3, 384, count), story);
  assert.notDeepEqual(makeStory(1, 4, 384, count), story);
  assert.notDeepEqual(makeStory(2, 3, 384, count), story);
  for (let index = 0; index < 40; index++) {
    const { context, place, question } = makeStory(5, index, 384, count);
    assert.ok(count(context) >= 384 && count(context) < 550, `${count(context)}`);
    assert.equal(context.split(place).length, 2, "the name is said once");
    assert.ok(!question.includes(place));
    // Thought, food, sum.
    const at = [THOUGHTS, FOODS, SUMS].map((texts) =>
      Math.min(...texts.map((text) => context.indexOf(text)).filter((place) => place >= 0))
    );
    assert.ok(at[0]! < at[1]! && at[1]! < at[2]!);
  }
  assert.ok(count(makeStory(5, 0, 3000, count).context) >= 3000);
});

Deno.test("a story's tokens: what is prefilled, and where the name stands", () => {
  const story = makeStory(1, 3, 100, (text) => encode(text).length);
  const { ids, context, name } = storyIds(story, encode);
  assert.deepEqual(ids.slice(0, context), encode(story.context));
  assert.deepEqual(ids.slice(context, name), encode(story.question));
  assert.deepEqual(ids.slice(name), encode(` ${story.place}`));
  // Where a piece before a cut would be joined with what follows, the cut moves to before it.
  const letters = (text: string) => (text.match(/.{1,2}/g) ?? []).map(hash);
  const cut = storyIds({ place: "Bc", context: "abc", question: " d" }, letters);
  assert.deepEqual([cut.context, cut.name], [1, 2]);
});

Deno.test("names count where dense attention knows them", () => {
  const hits = (...each: boolean[]) => ({ hits: each });
  const dense = [hits(true, true), hits(true, false), hits(false, false)];
  assert.deepEqual(scoreNames(dense, dense), { tokens: 3, hits: 3, names: 1, wholeNames: 1 });
  const other = [hits(true, false), hits(true, true), hits(true, true)];
  assert.deepEqual(scoreNames(dense, other), { tokens: 3, hits: 2, names: 1, wholeNames: 0 });
});
