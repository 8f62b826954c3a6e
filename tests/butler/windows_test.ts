import { cutWindows } from "../../src/butler/calibration/windows.ts";
import { assert, fc } from "std-testing";

/** One id a character. */
const encode = (text: string) => [...text].map((character) => character.codePointAt(0)!);

Deno.test("cutWindows() spreads windows evenly over a text", () => {
  const text = "abcdefghijklmnopqrstuvwxyz";
  assert.deepEqual(
    cutWindows([text], encode, [], { tokens: 9, context: 3 }),
    ["abc", "lmn", "xyz"].map(encode),
  );
  // Equal lengths, not two long windows and a short one.
  assert.deepEqual(
    cutWindows([text], encode, [], { tokens: 8, context: 5 }),
    ["abcd", "wxyz"].map(encode),
  );
});

Deno.test("cutWindows() gives each text its share, and puts the prefix first", () => {
  assert.deepEqual(
    cutWindows(["aaaa", "bbbb"], encode, [1], { tokens: 9, context: 3 }),
    ["aa", "aa", "bb"].map((piece) => [1, ...encode(piece)]),
  );
  // Every text is used, even where one window would do.
  assert.equal(cutWindows(["aa", "bb", "cc"], encode, [], { tokens: 3, context: 99 }).length, 3);
});

Deno.test("cutWindows() takes all of a short text, and nothing of an empty one", () => {
  const options = { tokens: 64, context: 4 };
  assert.deepEqual(
    cutWindows(["abcdefghij", ""], encode, [], options),
    ["abcd", "efgh", "ij"].map(encode),
  );
  assert.deepEqual(cutWindows(["", ""], encode, [7], options), []);
  assert.deepEqual(cutWindows(["abc"], encode, [7], { tokens: 1, context: 1 }), []);
});

Deno.test("cutWindows() encodes little of a long text and cuts it between words", () => {
  const words = Array.from({ length: 200_000 }, (_, index) => `word${index}`).join(" ");
  let encoded = 0;
  const byWord = (text: string) => {
    encoded += text.length;
    return text.split(/\s+/).map((word) => Number(/^word(\d+)$/.exec(word)?.[1] ?? "-1"));
  };
  const windows = cutWindows([words], byWord, [], { tokens: 400, context: 100 });
  assert.deepEqual(windows.map((ids) => ids.length), [100, 100, 100, 100]);
  assert.ok(windows.flat().every((id) => id >= 0));
  assert.equal(windows[0]![0], 0);
  assert.ok(windows[3]![0]! > 199_000, `${windows[3]![0]}`);
  assert.ok(encoded < 20_000, `${encoded} of ${words.length} characters`);
});

Deno.test("cutWindows() halves no character of a long text without blanks", () => {
  const text = "\u{1f600}".repeat(40_000);
  const windows = cutWindows([text], encode, [], { tokens: 50, context: 10 });
  assert.equal(windows.length, 5);
  assert.ok(windows.flat().every((id) => id === 0x1f600));
});

Deno.test("cutWindows() keeps to its sizes on any text", () => {
  fc.assert(fc.property(
    fc.array(fc.string({ maxLength: 300 }), { minLength: 1, maxLength: 4 }),
    fc.integer({ min: 1, max: 200 }),
    fc.integer({ min: 1, max: 60 }),
    fc.integer({ min: 0, max: 2 }),
    (texts, tokens, context, prefix) => {
      const windows = cutWindows(texts, encode, Array(prefix).fill(1), { tokens, context });
      for (const ids of windows) {
        assert.ok(ids.length > prefix && ids.length <= context);
      }
      const total = windows.reduce((sum, ids) => sum + ids.length, 0);
      assert.ok(total < tokens + Math.max(Math.ceil(tokens / context), texts.length));
    },
  ));
});
