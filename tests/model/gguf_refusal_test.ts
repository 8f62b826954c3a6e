import { assert } from "std-testing";
import type { ModelFileErrorCode } from "../../src/model/errors.ts";
import { f32, f32Tensor, type GgufValue, text, u32, withFiles } from "../_model_files.ts";
import { build, change, drop, type Parts, refused, set } from "./_gguf.ts";
import { assertRefused, Bounds } from "./_refusal.ts";

const BAD_METADATA: [what: string, value: [string, GgufValue], ModelFileErrorCode, string][] = [
  [
    "an unknown architecture",
    ["general.architecture", text("mamba")],
    "unsupported_architecture",
    "mamba",
  ],
  [
    "an architecture that is no text",
    ["general.architecture", u32(3)],
    "unsupported_architecture",
    "is 3",
  ],
  [
    "a prototype name",
    ["general.architecture", text("__proto__")],
    "unsupported_architecture",
    "proto",
  ],
  ["one piece of a split file", ["split.count", u32(3)], "bad_config", "merge"],
  ["experts", ["llama.expert_count", u32(8)], "bad_config", "expert_count"],
  ["logit scaling", ["llama.logit_scale", f32(8)], "bad_config", "logit_scale"],
  ["soft-capping", ["llama.attn_logit_softcapping", f32(50)], "bad_config", "softcapping"],
  [
    "attention that is not causal",
    ["llama.attention.causal", { type: "bool", value: false }],
    "bad_config",
    "causal",
  ],
  ["an unknown RoPE rule", ["llama.rope.scaling.type", text("ntk")], "bad_config", "ntk"],
  ["no layers", ["llama.block_count", u32(0)], "bad_config", "numLayers"],
  ["too many layers", ["llama.block_count", u32(0xffffffff)], "bad_config", "numLayers"],
  [
    "layers that differ",
    ["llama.feed_forward_length", { type: "array", of: 4, items: [u32(64), u32(32)] }],
    "bad_config",
    "feed_forward_length",
  ],
  ["no heads", ["llama.attention.head_count", u32(0)], "bad_config", ""],
  ["heads that do not divide", ["llama.attention.head_count_kv", u32(3)], "bad_config", "KV heads"],
  ["a head size that is odd", ["llama.rope.dimension_count", u32(7)], "bad_config", "odd"],
  ["RoPE beyond the head", ["llama.rope.dimension_count", u32(32)], "bad_config", "32"],
  ["heads of no whole eights", ["llama.attention.key_length", u32(20)], "bad_config", "20"],
  ["keys unlike values", ["llama.attention.value_length", u32(8)], "bad_config", "values of 8"],
  ["a width that is a text", ["llama.embedding_length", text("wide")], "bad_config", "hiddenSize"],
  ["a huge width", ["llama.embedding_length", u32(1 << 30)], "bad_config", "hiddenSize"],
  ["a context of nothing", ["llama.context_length", u32(0)], "bad_config", "contextLength"],
  [
    "an epsilon that is not finite",
    ["llama.attention.layer_norm_rms_epsilon", f32(NaN)],
    "bad_config",
    "rmsNormEps",
  ],
  ["a RoPE base of zero", ["llama.rope.freq_base", f32(0)], "bad_config", "ropeTheta"],
  [
    "another width than its tensors",
    ["llama.embedding_length", u32(64)],
    "shape_mismatch",
    "token_embd",
  ],
  ["another number of layers", ["llama.block_count", u32(2)], "missing_tensor", "blk.1.attn_norm"],
  [
    "an alignment that is no power of two",
    ["general.alignment", u32(48)],
    "malformed",
    "alignment",
  ],
  ["an alignment of zero", ["general.alignment", u32(0)], "malformed", "alignment"],
  ["a huge alignment", ["general.alignment", u32(1 << 21)], "malformed", "alignment"],
  ["tokens that are no texts", ["tokenizer.ggml.tokens", u32(1)], "malformed", "tokens"],
  [
    "more tokens than rows",
    ["tokenizer.ggml.tokens", {
      type: "array",
      of: 8,
      items: Array.from({ length: 13 }, () => text("x")),
    }],
    "shape_mismatch",
    "13 tokens",
  ],
  ["deep nesting", ["other", nest(6)], "malformed", "nested"],
];

/** Arrays in arrays. */
function nest(depth: number): GgufValue {
  const inner: GgufValue = depth === 0 ? u32(1) : nest(depth - 1);
  return { type: "array", of: depth === 0 ? 4 : 9, items: [inner] };
}

for (const [what, [key, value], code, word] of BAD_METADATA) {
  Deno.test(`openModel() refuses GGUF metadata with ${what}`, async () => {
    await refused(build("llama", (parts) => set(parts, key, value)), code, word);
  });
}

const norm = "output_norm.weight";
const BAD_TENSORS: [what: string, (parts: Parts) => void, ModelFileErrorCode, string][] = [
  [
    "is missing",
    (p) => drop(p, "blk.0.ffn_down.weight"),
    "missing_tensor",
    "blk.0.ffn_down.weight",
  ],
  ["is the missing embedding", (p) => drop(p, "token_embd.weight"), "missing_tensor", "token_embd"],
  ["has an unknown type", (p) => change(p, norm, { type: 99 }), "unsupported_type", "number 99"],
  [
    "has a type that is not supported",
    (p) => change(p, norm, { type: 23 }),
    "unsupported_type",
    "IQ4_XS",
  ],
  ["is a packed vector", (p) => change(p, norm, { type: 8 }), "unsupported_type", norm],
  ["has the wrong shape", (p) => change(p, norm, { dims: [16] }), "shape_mismatch", norm],
  [
    "is transposed",
    (p) => change(p, "blk.0.ffn_up.weight", { dims: [64, 32] }),
    "shape_mismatch",
    "ffn_up",
  ],
  [
    "has rows of part of a block",
    (p) => change(p, "token_embd.weight", { type: 2, dims: [24, 16] }),
    "malformed",
    "blocks",
  ],
  ["has no dimensions", (p) => change(p, norm, { dims: [] }), "malformed", "0 dimensions"],
  [
    "has too many dimensions",
    (p) => change(p, norm, { dims: [32, 1, 1, 1, 1] }),
    "malformed",
    "5 dimensions",
  ],
  ["has a dimension of zero", (p) => change(p, norm, { dims: [0] }), "malformed", "shape"],
  [
    "has a product of dimensions that overflows",
    (p) => change(p, norm, { dims: [1n << 32n, 1n << 32n] }),
    "malformed",
    "shape",
  ],
  [
    "has a dimension over 2^53",
    (p) => change(p, norm, { dims: [1n << 63n] }),
    "malformed",
    "limit",
  ],
  [
    "claims more bytes than the file has",
    (p) => change(p, norm, { dims: [1 << 20] }),
    "truncated",
    "ends early",
  ],
  [
    "begins after the end of the file",
    (p) => change(p, norm, { claimedOffset: 1n << 40n }),
    "truncated",
    "ends early",
  ],
  [
    "begins at an offset that wraps",
    (p) => change(p, norm, { claimedOffset: (1n << 64n) - 32n }),
    "malformed",
    "limit",
  ],
  ["is not aligned", (p) => change(p, norm, { claimedOffset: 4n }), "malformed", "multiple of 32"],
  ["overlaps another", (p) => change(p, norm, { claimedOffset: 0n }), "malformed", "overlap"],
  ["is there twice", (p) => p.tensors.push(f32Tensor(norm, [32])), "malformed", "twice"],
  [
    "has no place in the model",
    (p) => p.tensors.push(f32Tensor("blk.0.attn_output.bias", [32])),
    "unsupported_architecture",
    "attn_output.bias",
  ],
  [
    "holds RoPE factors of the wrong number",
    (p) => p.tensors.push(f32Tensor("rope_freqs.weight", [4], [1, 1, 1, 1])),
    "bad_config",
    "4 RoPE factors",
  ],
  [
    "holds RoPE factors of zero",
    (p) => p.tensors.push(f32Tensor("rope_freqs.weight", [8], Array(8).fill(0))),
    "bad_config",
    "ropeDivisors",
  ],
];

for (const [what, edit, code, word] of BAD_TENSORS) {
  Deno.test(`openModel() refuses a GGUF tensor that ${what}`, async () => {
    await refused(build("llama", edit), code, word);
  });
}

Deno.test("openModel() refuses other versions, byte orders and formats", async () => {
  await refused(build("llama", () => {}, { version: 1 }), "unknown_format", "version 1");
  await refused(build("llama", () => {}, { version: 4 }), "unknown_format", "version 4");
  await refused(build("llama", () => {}, { version: 3 << 24 }), "unknown_format", "big-endian");
  await refused(new TextEncoder().encode("PK\x03\x04 a zip"), "unknown_format", "PK");
  await refused(new TextEncoder().encode("GG"), "unknown_format", "GGUF");
});

Deno.test("openModel() refuses a key that is there twice", async () => {
  const bytes = build("llama", (p) => p.metadata.push(["general.name", text("again")]));
  await refused(bytes, "malformed", "general.name", "twice");
});

Deno.test("openModel() refuses arrays that claim more than a vocabulary needs", async () => {
  // The file is long enough for two million empty strings, so only the bound on elements helps.
  const lie = new Uint8Array(20 << 20);
  const head = build("llama", (p) => set(p, "zz", { type: "array", of: 8, items: [text("x")] }));
  lie.set(head);
  const view = new DataView(lie.buffer);
  const at = new TextDecoder("latin1").decode(head).indexOf("zz") + 2 + 4 + 4;
  for (const count of [1n << 21n, 1n << 31n, 1n << 53n, 1n << 63n, (1n << 64n) - 1n]) {
    view.setBigUint64(at, count, true);
    await refused(lie, "malformed", "limit");
  }
});

Deno.test("openModel() refuses two million tokens without reading them", async () => {
  const head = build("llama", (p) => {
    p.metadata = p.metadata.filter(([key]) => key !== "tokenizer.ggml.tokens");
    p.metadata.push(["tokenizer.ggml.tokens", { type: "array", of: 8, items: [text("zz")] }]);
  });
  // The one string is repeated in place; everything after it moves back.
  const at = new TextDecoder("latin1").decode(head).indexOf("zz") - 8;
  const count = 2_000_000;
  const lie = new Uint8Array(head.length + (count - 1) * 10 + 32);
  lie.set(head.subarray(0, at + 10));
  lie.copyWithin(at + 10, at, at + 10);
  for (let filled = 2; filled < count; filled *= 2) {
    const next = Math.min(filled, count - filled) * 10;
    lie.copyWithin(at + filled * 10, at, at + next);
  }
  // The data may now begin up to 31 bytes later after the header, hence the 32 bytes more.
  lie.set(head.subarray(at + 10), at + count * 10);
  new DataView(lie.buffer).setBigUint64(at - 8, BigInt(count), true);
  await withFiles({ "m.gguf": lie }, async (folder) => {
    const bounds = new Bounds();
    await bounds.run(`${folder}/m.gguf`, () => "two million tokens");
    assert.equal(bounds.refused, 1);
    await assertRefused(`${folder}/m.gguf`, "shape_mismatch", "2000000 tokens");
  });
});
