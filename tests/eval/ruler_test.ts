import { hide, inventedSentences, sentencesOf } from "../../src/eval/ruler/haystack.ts";
import {
  fitSample,
  RULER_TASKS,
  type RulerSample,
  type RulerTask,
  stringMatch,
} from "../../src/eval/ruler/tasks.ts";
import {
  letters,
  listed,
  numbersOf,
  PLAIN_WORDS,
  uuids,
  wordKeys,
} from "../../src/eval/ruler/words.ts";
import { Draws } from "../../src/train/draws.ts";
import { assert } from "std-testing";

const count = ({ prompt, prefix, references }: RulerSample) =>
  Math.ceil((prompt.length + prefix.length + 2 * references.join(", ").length) / 4);

const task = (name: string) => RULER_TASKS.find((each) => each.name === name)!;

const sampleOf = (
  of: RulerTask,
  tokens: number,
  index = 0,
  seed = 1,
  essay: string | null = null,
) => fitSample(of, { seed, index, essay, tokens }, tokens, count)!;

/** Answers as one who reads well. */
function solve({ prompt }: RulerSample, name: string): string[] {
  if (name === "vt") {
    const text = prompt.slice(prompt.lastIndexOf("Some lines"));
    const value = text.match(/value (\d+)\?/)![1]!;
    const held = new Map([...text.matchAll(/Let (\w+) = (\w+)\./g)].map(([, a, b]) => [a!, b!]));
    const end = (of: string): string => held.has(of) ? end(held.get(of)!) : of;
    return [...held.keys()].filter((of) => end(of) === value);
  }
  if (name === "cwe" || name === "fwe") {
    const list = prompt.slice(prompt.lastIndexOf(name === "cwe" ? "Count how" : "In the cipher"));
    const body = list.split("\n\n")[1]!;
    const words = body.match(name === "cwe" ? /[a-z-]+/g : /[a-z]{6}/g)!;
    const often = new Map<string, number>();
    for (const word of words) often.set(word, (often.get(word) ?? 0) + 1);
    return [...often].sort(([, a], [, b]) => b - a).slice(0, name === "cwe" ? 10 : 3)
      .map(([word]) => word);
  }
  const question = prompt.slice(prompt.lastIndexOf("Going by"));
  return [...prompt.matchAll(/The (?:locker number|ticket code) of (\S+) is (\S+)\./g)]
    .filter(([, key]) => question.includes(key!)).map(([, , value]) => value!);
}

Deno.test("every task can be answered from its text, and from nothing else", async (t) => {
  for (const of of RULER_TASKS) {
    await t.step(of.name, () => {
      for (const tokens of [1200, 6000]) {
        for (let index = 0; index < 6; index++) {
          const sample = sampleOf(of, tokens, index);
          assert.deepEqual(
            solve(sample, of.name).toSorted(),
            sample.references.toSorted(),
            `${tokens} tokens, sample ${index}`,
          );
          assert.equal(stringMatch(solve(sample, of.name).join(" "), sample.references), 1);
        }
      }
    });
  }
});

Deno.test("a sample depends on seed, index and task alone, and is as long as it may be", () => {
  for (const of of RULER_TASKS) {
    const sample = sampleOf(of, 1500, 2);
    assert.deepEqual(sampleOf(of, 1500, 2), sample, of.name);
    assert.notDeepEqual(sampleOf(of, 1500, 3), sample);
    assert.notDeepEqual(sampleOf(of, 1500, 2, 7), sample);
    assert.ok(count(sample) <= 1500, of.name);
    assert.ok(count(sample) > 1400, `${of.name}: ${count(sample)} of 1500`);
  }
  assert.notDeepEqual(
    sampleOf(task("niah_single_1"), 1500).references,
    sampleOf(task("niah_single_2"), 1500).references,
  );
  const fit = fitSample(task("cwe"), { seed: 1, index: 0, essay: null, tokens: 100 }, 100, count);
  assert.equal(fit, null, "the shortest list is longer");
});

Deno.test("needles: how many keys and values there are, and where", () => {
  const needles = (name: string) =>
    sampleOf(task(name), 1500).prompt.match(/The locker number of \S+ is \d{7}\./g)!.length;
  assert.equal(needles("niah_single_1"), 1);
  assert.equal(needles("niah_single_2"), 1);
  assert.equal(needles("niah_multikey_1"), 4);
  assert.ok(needles("niah_multikey_2") > 50);
  assert.equal(needles("niah_multivalue"), 4);
  assert.equal(needles("niah_multiquery"), 4);
  assert.equal(sampleOf(task("niah_multivalue"), 1500).references.length, 4);
  assert.equal(sampleOf(task("niah_multikey_1"), 1500).references.length, 1);
  // Over many samples a needle is anywhere.
  const depths = Array.from({ length: 60 }, (_, index) => {
    const { prompt } = sampleOf(task("niah_single_2"), 1500, index);
    return prompt.search(/The locker number of \S+ is \d/) / prompt.length;
  });
  assert.ok(Math.min(...depths) < 0.2 && Math.max(...depths) > 0.75);
});

Deno.test("prose to hide things in can be given", () => {
  const essay = "It was one thing. Was it another? It was not! Nobody knew.";
  const { prompt } = sampleOf(task("niah_single_2"), 600, 0, 1, essay);
  assert.match(prompt, /It was not! Nobody knew\. It was one thing\./);
  const draws = new Draws(1, 1);
  assert.throws(() => sentencesOf("no end", draws).next(), RangeError);
  const own = inventedSentences(draws);
  const some = Array.from({ length: 200 }, () => own.next().value);
  assert.ok(new Set(some).size > 190, "made-up sentences hardly repeat");
  assert.ok(some.every((sentence) => /^[A-Z].*\.$/.test(sentence)));
});

Deno.test("things are hidden in their order, whatever the places", () => {
  for (let seed = 0; seed < 50; seed++) {
    const found = hide(["a", "b", "c", "d"], ["1", "2", "3"], new Draws(seed, 0));
    assert.deepEqual(found.filter((piece) => /[a-d]/.test(piece)), ["a", "b", "c", "d"]);
    assert.deepEqual(found.filter((piece) => /\d/.test(piece)), ["1", "2", "3"]);
  }
  assert.deepEqual(hide(["a"], ["1", "2", "3"], new Draws(0, 0)).length, 4);
});

Deno.test("words, numbers and codes differ from each other", () => {
  const draws = new Draws(3, 0);
  for (const some of [wordKeys(draws, 300), numbersOf(draws, 300, 7), uuids(draws, 50)]) {
    assert.equal(new Set(some).size, some.length);
  }
  assert.ok(numbersOf(draws, 100, 5).every((each) => /^[1-9]\d{4}$/.test(each)));
  assert.match(
    uuids(draws, 1)[0]!,
    /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  assert.ok(letters(draws, 20, 5, "A").every((each) => /^[A-Z]{5}$/.test(each)));
  assert.ok(PLAIN_WORDS.length > 200);
  assert.equal(listed(["a"]), "a");
  assert.equal(listed(["a", "b"]), "a and b");
  assert.equal(listed(["a", "b", "c"]), "a, b, and c");
});

Deno.test("answers score by the references that they have", () => {
  assert.equal(stringMatch(" It is ABC-1, I think.", ["abc-1"]), 1);
  assert.equal(stringMatch("12 and 13", ["12", "14"]), 0.5);
  assert.equal(stringMatch("", ["12"]), 0);
});
