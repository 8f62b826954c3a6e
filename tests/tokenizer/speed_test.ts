/** Time to encode: prose, and the texts that make tokenizers stall. */

import { assert } from "std-testing";
import type { Tokenizer } from "../../src/tokenizer/types.ts";
import { DATA, DEFAULT_PATH, openTokenizer, specialIds } from "./_sources.ts";

const LENGTH = 100_000;
// Generous against the measured 1 to 700 ms: the bound is for what grows with the square.
const LIMIT_MS = 3000;

/** Letters without order, always the same. */
function randomLetters(length: number): string {
  let state = 12345;
  let text = "";
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    text += String.fromCharCode(97 + (state >>> 16) % 26);
  }
  return text;
}

const TEXTS: readonly (readonly [string, string])[] = [
  ["one letter", "a".repeat(LENGTH)],
  ["one capital", "A".repeat(LENGTH)],
  ["spaces", " ".repeat(LENGTH)],
  ["spaces and a letter", " ".repeat(LENGTH) + "x"],
  ["line ends and spaces", "\n ".repeat(LENGTH / 2)],
  ["one symbol", "!".repeat(LENGTH)],
  ["changing case", "aB".repeat(LENGTH / 2)],
  ["random letters", randomLetters(LENGTH)],
  ["emoji", "👩‍👩‍👧‍👦".repeat(LENGTH / 11)],
  ["beginnings of special tokens", "<|im_en".repeat(LENGTH / 7)],
  ["special tokens", "<|im_end|>".repeat(LENGTH / 10)],
  ["digits", "7".repeat(LENGTH)],
];

const FILES = [
  "bpe-gpt-2.gguf",
  "bpe-llama-bpe.gguf",
  "bpe-tekken.gguf",
  "bpe-deepseek-llm.gguf",
  "spm-llama.gguf",
].map((name) => `${DATA}/${name}`);

function elapsed(tokenizer: Tokenizer, text: string): number {
  const start = performance.now();
  specialIds(tokenizer, text);
  return performance.now() - start;
}

for (const path of [DEFAULT_PATH, ...FILES, "tests/data/tiny/llama31-bf16"]) {
  Deno.test(`encode() does not stall on 100,000 characters: ${path}`, async () => {
    const tokenizer = await openTokenizer(path);
    for (const [name, text] of TEXTS) {
      const ms = elapsed(tokenizer, text);
      assert.ok(ms < LIMIT_MS, `${name}: ${ms} ms`);
    }
  });
}

Deno.test("encode() takes well under 50 ms for 10,000 characters of prose", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  const letters = randomLetters(20_000);
  // Words of 2 to 9 letters, nearly all different, so that no cache helps.
  let prose = "";
  for (let at = 0; prose.length < 10_000; at += 9) {
    prose += letters.slice(at, at + 2 + letters.charCodeAt(at) % 8) + " ";
  }
  elapsed(tokenizer, prose.slice(0, 1000));
  const best = Math.min(...[1, 2, 3].map((i) => elapsed(tokenizer, prose.slice(i))));
  assert.ok(best < 50, `${best} ms`);
});
