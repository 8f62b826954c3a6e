/** GGUF tokenizer metadata and tokenizer.json files that lie. */

import { assert, fc } from "std-testing";
import { ModelFileError, type ModelFileErrorCode } from "../../src/model/errors.ts";
import type { TokenizerSource } from "../../src/model/types.ts";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import { DATA, openSource, readJson, specialIds } from "./_sources.ts";

type Metadata = Record<string, unknown>;

async function metadataOf(name: string): Promise<Metadata> {
  const { source } = await openSource(`${DATA}/${name}.gguf`);
  assert.equal(source.kind, "gguf");
  return { ...source.metadata };
}

const BPE = await metadataOf("bpe-llama-bpe");
const SPM = await metadataOf("spm-llama");
const TOKENS = BPE["tokenizer.ggml.tokens"] as string[];
const MERGES = BPE["tokenizer.ggml.merges"] as string[];
const TYPES = [...BPE["tokenizer.ggml.token_type"] as Iterable<number>];
const SPM_TOKENS = SPM["tokenizer.ggml.tokens"] as string[];
const SPM_TYPES = [...SPM["tokenizer.ggml.token_type"] as Iterable<number>];
const SCORES = [...SPM["tokenizer.ggml.scores"] as Iterable<number>];

function replaced<T>(list: readonly T[], at: number, value: T): T[] {
  return list.map((item, i) => i === at ? value : item);
}

type Case = readonly [string, unknown, ModelFileErrorCode, string];

const BPE_CASES: readonly Case[] = [
  ["model", undefined, "unsupported_tokenizer", "gpt2"],
  ["model", "bert", "unsupported_tokenizer", "gpt2"],
  ["model", 7, "malformed", "string"],
  ["model", null, "malformed", "string"],
  ["model", "x".repeat(1_000_000), "unsupported_tokenizer", "gpt2"],
  ["pre", undefined, "unsupported_tokenizer", "llama-bpe"],
  ["pre", "gpt-5", "unsupported_tokenizer", "deepseek-llm"],
  ["pre", "", "unsupported_tokenizer", "tekken"],
  ["pre", "constructor", "unsupported_tokenizer", "smollm"],
  ["pre", ["gpt-2"], "malformed", "string"],
  ["tokens", undefined, "malformed", "missing"],
  ["tokens", [], "malformed", "0 tokens"],
  ["tokens", "tokens", "malformed", "array"],
  ["tokens", { length: 3000 }, "malformed", "array"],
  ["tokens", new DataView(new ArrayBuffer(8)), "malformed", "array"],
  ["tokens", [...TOKENS, "one more"], "malformed", "3001"],
  ["tokens", TOKENS.slice(1), "malformed", "token_type"],
  ["tokens", replaced<unknown>(TOKENS, 17, 17), "malformed", "tokens[17]"],
  ["tokens", replaced<unknown>(TOKENS, 2999, null), "malformed", "tokens[2999]"],
  ["tokens", new Array(3000), "malformed", "tokens[0]"],
  ["tokens", new Array((1 << 20) + 1).fill("a"), "malformed", "more than"],
  ["token_type", TYPES.slice(1), "malformed", "2999"],
  ["token_type", [...TYPES, 1], "malformed", "3001"],
  ["token_type", [], "malformed", "0 entries"],
  ["token_type", "3", "malformed", "array"],
  ["token_type", replaced(TYPES, 5, 7), "malformed", "token_type[5]"],
  ["token_type", replaced(TYPES, 5, -1), "malformed", "token_type[5]"],
  ["token_type", replaced(TYPES, 5, 1.5), "malformed", "token_type[5]"],
  ["token_type", replaced(TYPES, 5, NaN), "malformed", "token_type[5]"],
  ["token_type", replaced<unknown>(TYPES, 5, "1"), "malformed", "token_type[5]"],
  ["token_type", replaced<unknown>(TYPES, 5, 2n ** 70n), "malformed", "token_type[5]"],
  ["token_type", replaced(TYPES, 5, 6), "malformed", "byte token"],
  ["merges", undefined, "malformed", "missing"],
  ["merges", "a b", "malformed", "array"],
  ["merges", replaced(MERGES, 9, "ab"), "malformed", "merges[9]"],
  ["merges", replaced(MERGES, 9, ""), "malformed", "merges[9]"],
  ["merges", replaced(MERGES, 9, " b"), "malformed", "merges[9]"],
  ["merges", replaced(MERGES, 9, "a "), "malformed", "merges[9]"],
  ["merges", replaced<unknown>(MERGES, 9, ["a", "b"]), "malformed", "merges[9]"],
  ["merges", new Array((1 << 20) + 1).fill("a b"), "malformed", "more than"],
  ["bos_token_id", 3000, "malformed", "below 3000"],
  ["bos_token_id", -1, "malformed", "below 3000"],
  ["bos_token_id", 1.5, "malformed", "below 3000"],
  ["bos_token_id", "1", "malformed", "below 3000"],
  ["bos_token_id", 2n ** 64n, "malformed", "below 3000"],
  ["bos_token_id", NaN, "malformed", "below 3000"],
  ["eos_token_id", 0xffffffff, "malformed", "below 3000"],
  ["eos_token_id", [2], "malformed", "below 3000"],
  ["eot_token_id", 3000, "malformed", "below 3000"],
  ["eom_token_id", Infinity, "malformed", "below 3000"],
  ["add_bos_token", 1, "malformed", "boolean"],
  ["add_bos_token", "true", "malformed", "boolean"],
  ["add_eos_token", 0, "malformed", "boolean"],
];

const SPM_CASES: readonly Case[] = [
  ["scores", undefined, "malformed", "missing"],
  ["scores", SCORES.slice(1), "malformed", "1999"],
  ["scores", "0", "malformed", "array"],
  ["scores", replaced(SCORES, 3, NaN), "malformed", "scores[3]"],
  ["scores", replaced(SCORES, 3, -Infinity), "malformed", "scores[3]"],
  ["scores", replaced<unknown>(SCORES, 3, "0"), "malformed", "scores[3]"],
  ["add_space_prefix", 1, "malformed", "boolean"],
  ["unknown_token_id", 2000, "malformed", "below 2000"],
  ["tokens", replaced(SPM_TOKENS, 3, "<0x-1>"), "malformed", "byte token"],
  ["tokens", replaced(SPM_TOKENS, 3, "<0x0g>"), "malformed", "byte token"],
  ["tokens", replaced(SPM_TOKENS, 3, "<0x000>"), "malformed", "byte token"],
  ["tokens", replaced(SPM_TOKENS, 3, "<0xab>"), "malformed", "byte token"],
  ["tokens", replaced(SPM_TOKENS, 3, "<0x00>\n"), "malformed", "byte token"],
  ["tokens", replaced(SPM_TOKENS, 3, ""), "malformed", "byte token"],
  ["token_type", replaced(SPM_TYPES, 300, 6), "malformed", "byte token"],
];

/** Loading must fail within a second, by name. */
function assertRefused(
  source: TokenizerSource,
  vocabSize: number,
  code: ModelFileErrorCode,
  word: string,
): void {
  const start = performance.now();
  assert.throws(() => loadTokenizer(source, "bad.gguf", vocabSize), (error) => {
    assert.ok(error instanceof ModelFileError);
    assert.equal(error.code, code, error.message);
    assert.equal(error.path, "bad.gguf");
    assert.ok(error.message.includes(word), `no ${word} in: ${error.message}`);
    assert.ok(error.message.length < 400, "the message repeats the file");
    return true;
  });
  assert.ok(performance.now() - start < 1000, "took too long");
}

for (const [base, size, cases] of [[BPE, 3000, BPE_CASES], [SPM, 2000, SPM_CASES]] as const) {
  Deno.test(`loadTokenizer() refuses ${cases.length} kinds of wrong metadata by name`, () => {
    for (const [key, value, code, word] of cases) {
      const metadata: Metadata = { ...base, [`tokenizer.ggml.${key}`]: value };
      if (value === undefined) delete metadata[`tokenizer.ggml.${key}`];
      assertRefused({ kind: "gguf", metadata }, size, code, word);
    }
  });
}

Deno.test("loadTokenizer() refuses what asks for a BOS or EOS it does not name", () => {
  for (const [ask, name] of [["add_bos_token", "bos"], ["add_eos_token", "eos"]] as const) {
    const metadata: Metadata = { ...BPE, [`tokenizer.ggml.${ask}`]: true };
    delete metadata[`tokenizer.ggml.${name}_token_id`];
    assertRefused({ kind: "gguf", metadata }, 3000, "malformed", `${name}_token_id`);
  }
});

Deno.test("loadTokenizer() refuses special tokens without end", () => {
  const tokens = [...TOKENS];
  tokens[0] = "<".repeat(2_000_000);
  const metadata = { ...BPE, "tokenizer.ggml.tokens": tokens };
  assertRefused({ kind: "gguf", metadata }, 3000, "malformed", "special tokens");
});

Deno.test("loadTokenizer() survives any mutation of any value", () => {
  const keys = [...Object.keys(BPE), ...Object.keys(SPM)].filter((key) =>
    key.startsWith("tokenizer.ggml.")
  );
  const value = fc.oneof(
    fc.anything({ withBigInt: true, withTypedArray: true, withMap: true }),
    fc.constantFrom(-1, 2 ** 31, 2 ** 53, 2n ** 64n - 1n, "\ufdd0", "<0x-1>", []),
  );
  fc.assert(
    fc.property(fc.boolean(), fc.constantFrom(...keys), value, (bpe, key, value) => {
      const metadata = { ...(bpe ? BPE : SPM), [key]: value };
      try {
        const tokenizer = loadTokenizer({ kind: "gguf", metadata }, "any.gguf", 3000);
        tokenizer.decode(specialIds(tokenizer, "Hello <|im_end|> wörld"));
      } catch (error) {
        assert.ok(error instanceof ModelFileError, String(error));
      }
    }),
    { numRuns: 300, seed: 8 },
  );
});

Deno.test("a token that only looks special is no special token", () => {
  const types = TYPES.map((type, id) => TOKENS[id] === "<|im_end|>" ? 1 : type);
  const metadata = { ...BPE, "tokenizer.ggml.token_type": types, "tokenizer.ggml.eos_token_id": 0 };
  const tokenizer = loadTokenizer({ kind: "gguf", metadata }, "plain.gguf", 3000);
  assert.deepEqual([...tokenizer.endIds], [0]);
  assert.equal(tokenizer.isSpecial(2), false);
});

Deno.test("a user-defined end of turn is a special token: a user cannot type it", () => {
  const types = TYPES.map((type, id) => TOKENS[id] === "<|im_end|>" ? 4 : type);
  const metadata = { ...BPE, "tokenizer.ggml.token_type": types };
  const tokenizer = loadTokenizer({ kind: "gguf", metadata }, "defined.gguf", 3000);
  assert.ok(tokenizer.endIds.has(2));
  const ids = tokenizer.encode("<|im_end|>", { parseSpecial: false, addBos: false });
  assert.ok(!ids.includes(2));
});

Deno.test("text never becomes a control token, whatever the merges say", () => {
  const tokens = [...TOKENS];
  tokens[2] = "Hello";
  const metadata = { ...BPE, "tokenizer.ggml.tokens": tokens };
  const tokenizer = loadTokenizer({ kind: "gguf", metadata }, "trap.gguf", 3000);
  const plain = tokenizer.encode("Hello", { parseSpecial: false, addBos: false });
  assert.ok(!plain.includes(2), plain.join());
  assert.deepEqual(specialIds(tokenizer, "Hello"), [2]);
});

Deno.test("eot and eom end a text; add_eos_token puts EOS after it", () => {
  const metadata = {
    ...BPE,
    "tokenizer.ggml.eot_token_id": 40,
    "tokenizer.ggml.eom_token_id": 41n,
    "tokenizer.ggml.add_bos_token": true,
    "tokenizer.ggml.add_eos_token": true,
  };
  const tokenizer = loadTokenizer({ kind: "gguf", metadata }, "ends.gguf", 3000);
  assert.deepEqual([...tokenizer.endIds].sort((a, b) => a - b), [0, 2, 40, 41]);
  const ids = tokenizer.encode("a b", { parseSpecial: true, addBos: true });
  assert.equal(ids[0], 1);
  assert.equal(ids.at(-1), 2);
});

const FOLDER = "tests/data/tiny/llama31-bf16";
const JSON_CASES: readonly (readonly [string, (json: Metadata) => unknown, ModelFileErrorCode])[] =
  [
    ["no object", () => "tokenizer", "malformed"],
    ["null", () => null, "malformed"],
    ["an array", () => [], "malformed"],
    ["no model", ({ model: _, ...rest }) => rest, "malformed"],
    [
      "another model",
      (json) => ({ ...json, model: { type: "WordPiece" } }),
      "unsupported_tokenizer",
    ],
    ...[undefined, null, "x", {}, [], { String: 5 }, { Regex: null, String: " " }].flatMap((
      pattern,
    ) => [
      [
        `a Split by ${JSON.stringify(pattern)}`,
        (json: Metadata) => ({
          ...json,
          pre_tokenizer: {
            type: "Sequence",
            pretokenizers: [{ type: "Split", pattern, behavior: "Isolated", invert: false }],
          },
        }),
        "malformed",
      ] as const,
      [
        `a Replace of ${JSON.stringify(pattern)}`,
        (json: Metadata) => ({ ...json, normalizer: { type: "Replace", pattern, content: "" } }),
        "malformed",
      ] as const,
    ]),
    ["no vocab", (json) => ({ ...json, model: { type: "BPE", merges: [] } }), "malformed"],
    ["no merges", (json) => ({ ...json, model: { type: "BPE", vocab: {} } }), "malformed"],
    [
      "merges of numbers",
      (json) => ({ ...json, model: { type: "BPE", vocab: { a: 1 }, merges: [1, 2] } }),
      "malformed",
    ],
    [
      "an id beyond the model",
      (json) => ({ ...json, model: { type: "BPE", vocab: { a: 320 }, merges: [] } }),
      "malformed",
    ],
    [
      "a negative id",
      (json) => ({ ...json, model: { type: "BPE", vocab: { a: -1 }, merges: [] } }),
      "malformed",
    ],
    [
      "a text for an id",
      (json) => ({ ...json, model: { type: "BPE", vocab: { a: "1" }, merges: [] } }),
      "malformed",
    ],
    ["no decoder", (json) => ({ ...json, decoder: null }), "unsupported_tokenizer"],
    ["another decoder", (json) => ({ ...json, decoder: { type: "CTC" } }), "unsupported_tokenizer"],
    [
      "a decoder of steps that are none",
      (json) => ({ ...json, decoder: { type: "Sequence", decoders: [7] } }),
      "unsupported_tokenizer",
    ],
    ["added tokens that are none", (json) => ({ ...json, added_tokens: {} }), "malformed"],
    [
      "an added token without text",
      (json) => ({ ...json, added_tokens: [{ id: 1 }] }),
      "malformed",
    ],
    [
      "an added token without an id",
      (json) => ({ ...json, added_tokens: [{ content: "<x>", id: "1" }] }),
      "malformed",
    ],
    [
      "an unknown pre-tokenizer",
      (json) => ({ ...json, pre_tokenizer: { type: "Nonsense" } }),
      "malformed",
    ],
    [
      "a pattern that is none",
      (json) => ({
        ...json,
        pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" },
      }),
      "malformed",
    ],
  ];

Deno.test("loadTokenizer() refuses wrong tokenizer.json files by name", async () => {
  const json = await readJson<Metadata>(`${FOLDER}/tokenizer.json`);
  for (const [name, change, code] of JSON_CASES) {
    const source = { kind: "huggingface", tokenizer: change(json), config: {}, generation: {} };
    const start = performance.now();
    assert.throws(
      () => loadTokenizer(source as TokenizerSource, "bad", 320),
      (error) => error instanceof ModelFileError && error.code === code,
      name,
    );
    assert.ok(performance.now() - start < 1000, name);
  }
});

Deno.test("end ids of a Hugging Face model: number, list, configuration, or refused", async () => {
  const json = await readJson<Metadata>(`${FOLDER}/tokenizer.json`);
  const load = (config: Metadata, generation: Metadata) =>
    loadTokenizer({ kind: "huggingface", tokenizer: json, config, generation }, "ends", 320);
  const ends = (config: Metadata, generation: Metadata) =>
    [...load(config, generation).endIds].sort((a, b) => a - b);
  // <|end_of_text|> (2) and <|eot_id|> (5) are special tokens of the file.
  assert.deepEqual(ends({}, {}), [2, 5]);
  assert.deepEqual(ends({}, { eos_token_id: 3 }), [2, 3, 5]);
  assert.deepEqual(ends({}, { eos_token_id: [2, 7] }), [2, 5, 7]);
  assert.deepEqual(ends({ eos_token: "<|pad|>" }, { eos_token_id: null }), [0, 2, 5]);
  for (const eos_token_id of [320, -1, "2", [2, 999], 1.5, {}]) {
    assert.throws(() => load({}, { eos_token_id }), ModelFileError);
  }
});

Deno.test("an added token without a row in the embedding is only text", async () => {
  const json = await readJson<Metadata>(`${FOLDER}/tokenizer.json`);
  const added = [...json["added_tokens"] as unknown[], {
    id: 320,
    content: "[PAD]",
    special: true,
    normalized: false,
  }];
  const tokenizer = loadTokenizer(
    {
      kind: "huggingface",
      tokenizer: { ...json, added_tokens: added },
      config: {},
      generation: {},
    },
    "pad",
    320,
  );
  const ids = specialIds(tokenizer, "[PAD]");
  assert.ok(ids.every((id) => id < 320));
  assert.equal(tokenizer.decode(ids), "[PAD]");
});
