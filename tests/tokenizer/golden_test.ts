/** Ids and texts against those of llama.cpp, SentencePiece and Hugging Face. */

import { assert } from "std-testing";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import {
  DATA,
  DEFAULT_PATH,
  openSource,
  openTokenizer,
  plainIds,
  readJson,
  specialIds,
} from "./_sources.ts";

interface Golden {
  readonly text: string;
  readonly ids: number[];
  readonly ids_special?: number[];
  readonly ids_with_bos?: number[];
  readonly decoded?: string;
}

const GGUF_FILES = [
  ["bpe-gpt-2", `${DATA}/bpe-gpt-2.gguf`],
  ["bpe-smollm", `${DATA}/bpe-smollm.gguf`],
  ["bpe-llama-bpe", `${DATA}/bpe-llama-bpe.gguf`],
  ["bpe-qwen2", `${DATA}/bpe-qwen2.gguf`],
  ["bpe-tekken", `${DATA}/bpe-tekken.gguf`],
  ["bpe-deepseek-llm", `${DATA}/bpe-deepseek-llm.gguf`],
  ["spm-llama", `${DATA}/spm-llama.gguf`],
  ["smollm2", DEFAULT_PATH],
] as const;

for (const [name, path] of GGUF_FILES) {
  Deno.test(`loadTokenizer() gives the ids of ${name}`, async () => {
    const tokenizer = await openTokenizer(path);
    const cases = await readJson<Golden[]>(`${DATA}/${name}.json`);
    assert.equal(cases.length, 35);
    for (const { text, ids, ids_special } of cases) {
      assert.deepEqual(plainIds(tokenizer, text), ids, `ids of ${JSON.stringify(text)}`);
      assert.deepEqual(
        specialIds(tokenizer, text),
        ids_special,
        `ids of ${JSON.stringify(text)}, special tokens parsed`,
      );
    }
  });

  Deno.test(`decode() gives back the texts of ${name}`, async () => {
    const tokenizer = await openTokenizer(path);
    for (const { text, ids } of await readJson<Golden[]>(`${DATA}/${name}.json`)) {
      assert.equal(tokenizer.decode(ids), text);
    }
  });
}

Deno.test("loadTokenizer() takes pre-tokenizer `default` as `gpt-2`", async () => {
  const tokenizer = await openTokenizer(`${DATA}/bpe-gpt-2.gguf`);
  const { source, vocabSize } = await openSource(`${DATA}/bpe-gpt-2.gguf`);
  assert.equal(source.kind, "gguf");
  const metadata = { ...source.metadata, "tokenizer.ggml.pre": "default" };
  const other = loadTokenizer({ kind: "gguf", metadata }, "default.gguf", vocabSize);
  for (const { text } of await readJson<Golden[]>(`${DATA}/bpe-gpt-2.json`)) {
    assert.deepEqual(plainIds(other, text), plainIds(tokenizer, text));
  }
});

Deno.test("loadTokenizer() gives the ids of a Llama 3.1 tokenizer.json", async () => {
  const tokenizer = await openTokenizer("tests/data/tiny/llama31-bf16");
  assert.equal(tokenizer.bosId, 1);
  assert.equal(tokenizer.addsBos, true);
  assert.deepEqual([...tokenizer.endIds].sort(), [2, 5]);
  for (const golden of await readJson<Golden[]>(`${DATA}/hf-llama31-tiny.json`)) {
    const { text, ids, ids_with_bos, decoded } = golden;
    assert.deepEqual(specialIds(tokenizer, text), ids);
    assert.deepEqual(tokenizer.encode(text, { parseSpecial: true, addBos: true }), ids_with_bos);
    assert.equal(tokenizer.decode(ids), decoded);
    assert.equal(tokenizer.decode(plainIds(tokenizer, text)), text);
  }
});

Deno.test("loadTokenizer() gives the ids of a SentencePiece tokenizer.json", async () => {
  const json = await readJson<unknown>(`${DATA}/spm-llama.tokenizer.json`);
  const tokenizer = loadTokenizer(
    {
      kind: "huggingface",
      tokenizer: json,
      config: { bos_token: "<s>", eos_token: { content: "</s>" } },
      generation: {},
    },
    "spm",
    2000,
  );
  assert.equal(tokenizer.bosId, 1);
  assert.equal(tokenizer.addsBos, true);
  assert.deepEqual([...tokenizer.endIds], [2]);
  for (const { text, ids, decoded } of await readJson<Golden[]>(`${DATA}/hf-spm-llama.json`)) {
    assert.deepEqual(specialIds(tokenizer, text), ids);
    assert.equal(tokenizer.decode(ids), decoded);
    assert.equal(tokenizer.decode(plainIds(tokenizer, text)), text);
  }
});

Deno.test("the default model's tokenizer knows its special tokens", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  assert.equal(tokenizer.vocabSize, 49152);
  assert.equal(tokenizer.bosId, 1);
  assert.equal(tokenizer.addsBos, false);
  // <|im_end|>, and <|endoftext|> of the pre-training.
  assert.deepEqual([...tokenizer.endIds].sort(), [0, 2]);
  assert.deepEqual(tokenizer.encode("Hi", { parseSpecial: true, addBos: true }), [26843]);
  assert.equal(tokenizer.isSpecial(2), true);
  assert.equal(tokenizer.isSpecial(26843), false);
  assert.equal(tokenizer.decode([1, 26843, 2]), "<|im_start|>Hi<|im_end|>");
  assert.equal(tokenizer.decode([1, 26843, 2], { skipSpecial: true }), "Hi");
});

Deno.test("SentencePiece: BOS, and the space that is not the author's", async () => {
  const tokenizer = await openTokenizer(`${DATA}/spm-llama.gguf`);
  const ids = tokenizer.encode("Hello, world!", { parseSpecial: true, addBos: true });
  assert.deepEqual(ids, [1, 440, 639, 1910, 1926, 909, 1942]);
  assert.equal(tokenizer.decode(ids, { skipSpecial: true }), "Hello, world!");
  assert.equal(tokenizer.decode(ids.slice(1)), "Hello, world!");
  assert.equal(tokenizer.decode(ids.slice(1), { continues: true }), " Hello, world!");
  assert.deepEqual(tokenizer.encode("", { parseSpecial: true, addBos: true }), [1]);
});

Deno.test("ids of a padded vocabulary stand for nothing; ids beyond it are refused", async () => {
  const { source } = await openSource(`${DATA}/bpe-qwen2.gguf`);
  const tokenizer = loadTokenizer(source, "padded.gguf", 3072);
  assert.equal(tokenizer.vocabSize, 3072);
  assert.equal(tokenizer.tokenBytes(3000).length, 0);
  assert.equal(tokenizer.isSpecial(3071), false);
  assert.equal(tokenizer.decode([42, 3050, 641]), tokenizer.decode([42, 641]));
  for (const id of [3072, -1, 1.5, NaN]) {
    assert.throws(() => tokenizer.tokenBytes(id), RangeError);
    assert.throws(() => tokenizer.decode([id]), RangeError);
  }
});

Deno.test("a tokenizer knows the family of its vocabulary, from either format", async () => {
  assert.equal((await openTokenizer(`${DATA}/spm-llama.gguf`)).kind, "sentencepiece");
  assert.equal((await openTokenizer(`${DATA}/bpe-qwen2.gguf`)).kind, "bpe");
  assert.equal((await openTokenizer("tests/data/tiny/llama31-bf16")).kind, "bpe");
  const tokenizer = await readJson<Record<string, unknown>>(`${DATA}/spm-llama.tokenizer.json`);
  const source = { kind: "huggingface", tokenizer, config: {}, generation: {} } as const;
  assert.equal(loadTokenizer(source, "spm", 32_000).kind, "sentencepiece");
});
