import { corefSample } from "../../src/eval/tasks/coref.ts";
import { PASSAGES, PLACES } from "../../src/eval/tasks/coref_text.ts";
import {
  RULER_TASKS,
  type RulerOptions,
  rulerSample,
  rulerScore,
  type RulerTask,
} from "../../src/eval/tasks/ruler.ts";
import { Draws } from "../../src/train/draws.ts";
import { assert } from "std-testing";

/** A token for each word and each blank: enough to count. */
const encode = (text: string) => Array.from(text.matchAll(/\S+|\s/g), ([part]) => part.length);

function optionsOf(seed: number, tokens = 900): RulerOptions {
  return {
    draws: new Draws(seed, 0),
    tokens,
    countTokens: (text) => encode(text).length,
    prose: PASSAGES.join(" "),
  };
}

const times = (text: string, part: string) => text.split(part).length - 1;

Deno.test("a co-reference sample names a place once, tells other things, and asks for it", () => {
  for (let seed = 0; seed < 20; seed++) {
    const pieces: string[] = [];
    const sample = corefSample(
      new Draws(seed, 1),
      (text) => {
        pieces.push(text);
        return encode(text);
      },
      [7],
      400,
    );
    const name = pieces.at(-1)!;
    const question = pieces.at(-2)!;
    const context = pieces.at(-3)!;
    assert.match(name, /^ [A-Z][a-z]+$/);
    assert.equal(times(context, name), 1);
    assert.equal(times(question, name), 0);
    assert.ok(
      PLACES.some((place) => context.startsWith(place.intro) && question === ` ${place.question}`),
    );
    assert.ok(sample.context.length >= 400 && sample.context[0] === 7);
    assert.deepEqual(sample.answer, encode(name));
  }
  const again = () => corefSample(new Draws(3, 1), encode, [], 400);
  assert.deepEqual(again(), again());
});

Deno.test("samples of every task are as long as they may be, repeatable, and hold what is asked", () => {
  for (const task of RULER_TASKS) {
    for (let seed = 0; seed < 5; seed++) {
      const { prompt, answerPrefix, references } = rulerSample(task, optionsOf(seed));
      const length = encode(prompt).length;
      assert.ok(length <= 900 && length > 600, `${task}: ${length} tokens`);
      assert.deepEqual(rulerSample(task, optionsOf(seed)), { prompt, answerPrefix, references });
      for (const reference of references) {
        assert.ok(prompt.includes(reference), `${task}: no ${reference}`);
        assert.ok(!answerPrefix.includes(reference));
      }
      assert.equal(new Set(references).size, references.length);
    }
    assert.throws(() => rulerSample(task, optionsOf(1, 20)), RangeError);
  }
});

Deno.test("needles: as many keys, values and queries as the task says", () => {
  const of = (task: RulerTask) => rulerSample(task, optionsOf(4));
  const needles = (text: string) => times(text, "The magic ");
  assert.equal(needles(of("niah_single_1").prompt), 1);
  assert.equal(times(of("niah_single_1").prompt, "The clock ticked.") > 20, true);
  assert.equal(needles(of("niah_single_2").prompt), 1);
  assert.match(of("niah_single_3").references[0]!, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.equal(needles(of("niah_multikey_1").prompt), 4);
  assert.equal(of("niah_multikey_1").references.length, 1);
  assert.ok(needles(of("niah_multikey_2").prompt) > 40);
  assert.equal(of("niah_multivalue").references.length, 4);
  const queries = of("niah_multiquery");
  assert.equal(queries.references.length, 4);
  assert.match(
    queries.answerPrefix,
    /^The magic numbers of \S+, \S+, \S+ and \S+ in the text are$/,
  );
});

Deno.test("vt: five variables by one chain, in order; an example with another comes first", () => {
  const { prompt, references, answerPrefix } = rulerSample("vt", optionsOf(2));
  assert.equal(references.length, 5);
  const value = answerPrefix.match(/value (\d{5})/)![1]!;
  let at = prompt.indexOf(`VAR ${references[0]} = ${value}`);
  assert.ok(at > 0);
  references.slice(1).forEach((name, i) => {
    const next = prompt.indexOf(`VAR ${name} = VAR ${references[i]}`);
    assert.ok(next > at, `${name} comes too early`);
    at = next;
  });
  assert.equal(times(prompt, "VAR "), 2 * 9);
});

Deno.test("cwe and fwe: what is asked for comes up more often than anything else", () => {
  const common = rulerSample("cwe", optionsOf(3));
  const list = common.prompt.slice(common.prompt.lastIndexOf("Remember those."));
  const counts = new Map<string, number>();
  for (const [, word] of list.matchAll(/\d+\. (\w+)/g)) {
    counts.set(word!, (counts.get(word!) ?? 0) + 1);
  }
  const [first, last] = [
    common.references,
    [...counts.keys()].filter((w) => !common.references.includes(w)),
  ];
  assert.equal(first.length, 10);
  assert.ok(last.length > 3 && last.every((word) => counts.get(word)! < counts.get(first[0]!)!));
  const frequent = rulerSample("fwe", optionsOf(3));
  const words = frequent.prompt.split(/\s+/);
  const count = (word: string) => words.filter((one) => one === word).length;
  const [a, b, c] = frequent.references.map(count);
  assert.ok(a! > b! && b! > c! && count("...") > a!);
});

Deno.test("rulerScore() counts the references that an answer has", () => {
  assert.equal(rulerScore("It is 123, and ABC.", ["123", "abc"]), 1);
  assert.equal(rulerScore("It is 123.", ["123", "abc"]), 0.5);
  assert.equal(rulerScore("", ["x"]), 0);
});
