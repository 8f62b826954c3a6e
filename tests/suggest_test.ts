import { assert, fc } from "std-testing";
import { editDistance, nearest } from "../src/suggest.ts";

Deno.test("editDistance() counts inserts, deletes, replacements and swaps", () => {
  const cases: [string, string, number][] = [
    ["", "", 0],
    ["", "abc", 3],
    ["abc", "abc", 0],
    ["abc", "abd", 1],
    ["abc", "acb", 1],
    ["serve", "sevre", 1],
    ["kitten", "sitting", 3],
  ];
  for (const [from, to, want] of cases) assert.equal(editDistance(from, to), want, `${from} ${to}`);
});

Deno.test("editDistance() is symmetric and bounded by the longer word", () => {
  const word = fc.string({ maxLength: 12 });
  fc.assert(
    fc.property(word, word, (from, to) => {
      const distance = editDistance(from, to);
      assert.equal(distance, editDistance(to, from));
      assert.ok(distance <= Math.max(from.length, to.length));
      assert.equal(distance === 0, from === to);
    }),
    { seed: 7 },
  );
});

Deno.test("nearest() finds the word that was meant and leaves strangers alone", () => {
  const known = ["serve", "generate", "max-tokens", "temperature"];
  assert.equal(nearest("sreve", known), "serve");
  assert.equal(nearest("generat", known), "generate");
  assert.equal(nearest("max-token", known), "max-tokens");
  assert.equal(nearest("temp", known), "temperature");
  assert.equal(nearest("xyzzy", known), undefined);
});
