/** Text as it comes, token by token. */

import { assert, fc } from "std-testing";
import { ByteTextStream } from "../../src/tokenizer/text_stream.ts";
import type { Tokenizer } from "../../src/tokenizer/types.ts";
import { DATA, DEFAULT_PATH, openTokenizer, plainIds, specialIds } from "./_sources.ts";

const TOKENIZERS = [
  await openTokenizer(DEFAULT_PATH),
  await openTokenizer(`${DATA}/bpe-llama-bpe.gguf`),
  await openTokenizer(`${DATA}/bpe-deepseek-llm.gguf`),
  await openTokenizer(`${DATA}/spm-llama.gguf`),
  await openTokenizer("tests/data/tiny/llama31-bf16"),
];

/** Texts with everything that is hard: emoji, joiners, CJK, combining marks, white space. */
const texts = fc.array(
  fc.oneof(
    fc.string({ unit: "grapheme" }),
    fc.string({ unit: "binary" }),
    fc.constantFrom(
      "👩‍👩‍👧‍👦",
      "🇩🇪",
      "é",
      "練習は",
      "हिन्दी",
      " ",
      "  \n",
      "don't",
      "\u00a0",
      "\u3000",
      "\0",
      "▁",
    ),
  ),
  { maxLength: 12 },
).map((parts) => parts.join(""));

function streamed(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const stream = tokenizer.stream();
  const deltas = ids.map((id) => stream.push(id));
  deltas.push(stream.end());
  return deltas;
}

/** Six control characters and the planes that nothing is assigned to. */
function hasNoTokens(char: string): boolean {
  const code = char.codePointAt(0)!;
  return [0x04, 0x06, 0x13, 0x14, 0x16, 0x1d].includes(code) || (code >= 0x40000 && code < 0xc0000);
}

/** The text as far as a tokenizer has tokens for its bytes: the default model's lacks some. */
function writable(tokenizer: Tokenizer, text: string): string {
  if (tokenizer !== TOKENIZERS[0]) return text;
  return [...text].filter((char) => !hasNoTokens(char)).join("");
}

/** Bytes as one token each. */
function byteStream(): ByteTextStream {
  return new ByteTextStream(
    { tokenBytes: (id) => Uint8Array.of(id), isSpecial: () => false },
    { skipSpecial: false, dropLeadingSpace: false },
  );
}

/** What a whole text of bytes is, without an unfinished character at its end. */
function expected(bytes: Uint8Array): string {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return decoder.decode(bytes, { stream: true });
}

Deno.test("decode() of encode() is the text, for every kind of tokenizer", () => {
  for (const tokenizer of TOKENIZERS) {
    fc.assert(
      fc.property(texts, (any) => {
        const text = writable(tokenizer, any);
        const whole = text.toWellFormed();
        // SentencePiece writes a space as U+2581, so one in the text comes back as a space.
        const want = tokenizer === TOKENIZERS[3] ? whole.replaceAll("▁", " ") : whole;
        assert.equal(tokenizer.decode(plainIds(tokenizer, text)), want);
      }),
      { numRuns: 150, seed: 1 },
    );
  }
});

Deno.test("stream(): deltas joined are decode(), and none has half a character", () => {
  for (const tokenizer of TOKENIZERS) {
    fc.assert(
      fc.property(texts, (any) => {
        const text = writable(tokenizer, any);
        const ids = specialIds(tokenizer, text);
        const deltas = streamed(tokenizer, ids);
        assert.equal(deltas.join(""), tokenizer.decode(ids));
        for (const delta of deltas) {
          assert.ok(delta.isWellFormed());
          assert.ok(text.includes("\ufffd") || !text.isWellFormed() || !delta.includes("\ufffd"));
        }
      }),
      { numRuns: 150, seed: 2 },
    );
  }
});

Deno.test("stream(): any ids, in any order, give what decode() gives", () => {
  for (const tokenizer of TOKENIZERS) {
    const ids = fc.array(fc.nat(tokenizer.vocabSize - 1), { maxLength: 40 });
    fc.assert(
      fc.property(ids, fc.boolean(), (ids, skipSpecial) => {
        const stream = tokenizer.stream({ skipSpecial });
        const text = ids.map((id) => stream.push(id)).join("") + stream.end();
        assert.equal(text, tokenizer.decode(ids, { skipSpecial }));
      }),
      { numRuns: 100, seed: 3 },
    );
  }
});

Deno.test("stream(): any bytes become what TextDecoder makes of them", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const stream = byteStream();
      const text = [...bytes].map((byte) => stream.push(byte)).join("") + stream.end();
      assert.equal(text, expected(bytes));
    }),
    { numRuns: 500, seed: 4 },
  );
});

Deno.test("stream(): valid text cut at any byte holds back only the unfinished character", () => {
  fc.assert(
    fc.property(texts, fc.nat(200), (text, cut) => {
      const bytes = new TextEncoder().encode(text);
      const part = bytes.subarray(0, Math.min(cut, bytes.length));
      const stream = byteStream();
      const out = [...part].map((byte) => stream.push(byte)).join("") + stream.end();
      assert.ok(text.toWellFormed().startsWith(out));
      assert.ok(new TextEncoder().encode(out).length > part.length - 4);
    }),
    { numRuns: 300, seed: 5 },
  );
});

Deno.test("stream(): bytes that can never be a character are U+FFFD at once", () => {
  const stream = byteStream();
  assert.equal(stream.push(0xf0), "");
  assert.equal(stream.push(0x9f), "");
  assert.equal(stream.push(0x41), "\ufffdA");
  assert.equal(stream.push(0xff), "\ufffd");
  assert.equal(stream.push(0xe2), "");
  assert.equal(stream.end(), "");
});

Deno.test("decode() drops the bytes of an unfinished character at the end", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  const ids = plainIds(tokenizer, "ok 🐋");
  for (let length = ids.length - 1; length > 2; length--) {
    const text = tokenizer.decode(ids.slice(0, length));
    assert.ok("ok 🐋".startsWith(text) && !text.includes("\ufffd"), text);
  }
});

Deno.test("tokenBytes(): joined, the tokens' bytes are the text's", () => {
  for (const tokenizer of TOKENIZERS) {
    const text = "naïve 🐋 練習\n";
    const bytes = plainIds(tokenizer, text).flatMap((id) => [...tokenizer.tokenBytes(id)]);
    const decoded = new TextDecoder().decode(Uint8Array.from(bytes));
    assert.equal(tokenizer === TOKENIZERS[3] ? decoded.slice(1) : decoded, text);
  }
});
