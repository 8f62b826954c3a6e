import {
  classification,
  codeSimilarity,
  counting,
  plainWords,
  qaF1,
  retrieval,
  rougeL,
  similarity,
} from "../../src/eval/longbench/metrics.ts";
import { DATASETS, middleCut, promptOf, scoreAnswer } from "../../src/eval/longbench/datasets.ts";
import { assert } from "std-testing";

const NONE = { classes: [] };

function near(got: number, wanted: number): void {
  assert.ok(Math.abs(got - wanted) < 1e-6, `${got}, wanted ${wanted}`);
}

Deno.test("qa_f1: words without case, punctuation and articles; each counts as often as it is there", () => {
  assert.deepEqual(plainWords(" The cat's  Hat, an apple; theatre! "), [
    "cats",
    "hat",
    "apple",
    "theatre",
  ]);
  assert.equal(qaF1("The Eiffel Tower.", "eiffel tower", NONE), 1);
  // 2 of 4 words, 2 of 3.
  near(qaF1("it is Paris, France", "in Paris, France", NONE), 2 * (0.5 * 2 / 3) / (0.5 + 2 / 3));
  near(qaF1("no no no", "no", NONE), 0.5);
  assert.equal(qaF1("", "yes", NONE), 0);
  assert.equal(qaF1("the", "a", NONE), 0);
});

Deno.test("rouge-l: different words in order, united over sentences", () => {
  near(
    rougeL("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", NONE),
    2 * (4 / 8) * (4 / 5) / (4 / 8 + 4 / 5),
  );
  near(rougeL("a b c", "a b c", NONE), 1);
  // Order counts: only one of the two can be kept.
  near(rougeL("b a", "a b", NONE), 0.5);
  // The same word twice is one word.
  near(rougeL("a a a", "a", NONE), 1);
  assert.equal(rougeL("", "a", NONE), 0);
  assert.equal(rougeL("...", "a", NONE), 0);
  assert.equal(rougeL("x", "a b", NONE), 0);
  // What follows the last point is a sentence too, of one word that is empty.
  near(rougeL("a. ", "a", NONE), 2 * 0.5 / 1.5);
});

Deno.test("classification: shared among the classes that are named", () => {
  const context = { classes: ["City", "Country", "Other location", "location"] };
  assert.equal(classification("City", "City", context), 1);
  assert.equal(classification("City or Country", "City", context), 0.5);
  assert.equal(classification("Country", "City", context), 0);
  // The name of one is part of the other's.
  assert.equal(classification("Other location", "Other location", context), 1);
  assert.equal(classification("location, Other location", "location", context), 0.5);
  assert.equal(classification("nothing", "City", context), 0);
});

Deno.test("retrieval and count: the share of numbers that are right", () => {
  assert.equal(retrieval("Paragraph 12", "Paragraph 12", NONE), 1);
  near(retrieval("Paragraph 12 or 3, not 12 of 30", "Paragraph 12", NONE), 0.5);
  assert.equal(retrieval("Paragraph 1", "Paragraph 12", NONE), 0);
  assert.equal(retrieval("none", "Paragraph 12", NONE), 0);
  assert.equal(counting("There are 7.", "7", NONE), 1);
  assert.equal(counting("7 of 14", "7", NONE), 0.5);
});

Deno.test("code similarity: the first line of code, whole percent", () => {
  assert.equal(similarity("abcd", "abcd"), 1);
  assert.equal(similarity("abcd", "bcde"), 0.75);
  assert.equal(similarity("abc", "axc"), 0.67);
  assert.equal(similarity("", ""), 0);
  assert.equal(codeSimilarity("\n\n```ts\n# note\n// note\nreturn x;\nmore", "return x;", NONE), 1);
  assert.equal(codeSimilarity("# only a note", "x", NONE), 0);
});

Deno.test("data sets: prompts hold the sample as it is; the best of several answers counts", () => {
  assert.equal(new Set(DATASETS.map(({ name }) => name)).size, DATASETS.length);
  for (const dataset of DATASETS) {
    assert.match(dataset.prompt, /\{context\}/);
    const text = promptOf(dataset, {
      context: "C{input}$&",
      input: "I{context}",
      answers: [],
      all_classes: null,
    });
    assert.ok(text.includes("C{input}$&"), dataset.name);
    assert.equal(text.includes("I{context}"), dataset.prompt.includes("{input}"));
  }
  const sample = { context: "", input: "", answers: ["red", "dark blue"], all_classes: null };
  const of = (name: string) => DATASETS.find((dataset) => dataset.name === name)!;
  assert.equal(scoreAnswer(of("hotpotqa"), sample, "Dark blue."), 1);
  assert.equal(scoreAnswer(of("triviaqa"), sample, "\nred\nand so on"), 1);
  near(scoreAnswer(of("hotpotqa"), sample, "\nred\nand so on"), 0.4);
  assert.equal(scoreAnswer(of("hotpotqa"), { ...sample, answers: [] }, "x"), 0);
  const typed = { ...sample, answers: ["City"], all_classes: ["City", "Country"] };
  assert.equal(scoreAnswer(of("trec"), typed, " City\nQuestion: Country"), 1);
});

Deno.test("what is too long loses its middle", () => {
  assert.deepEqual(middleCut([1, 2, 3, 4, 5], 5), [1, 2, 3, 4, 5]);
  assert.deepEqual(middleCut([1, 2, 3, 4, 5], 4), [1, 2, 4, 5]);
  assert.deepEqual(middleCut([1, 2, 3, 4, 5], 3), [1, 4, 5]);
});
