import { assert } from "std-testing";
import { f32, f32Tensor, text, TINY, u32 } from "../_model_files.ts";
import { type Arch, build, change, opened, type Parts, set } from "./_gguf.ts";

for (const arch of ["llama", "qwen2", "qwen3", "phi3"] as const) {
  Deno.test(`openModel() reads a ${arch} GGUF file of either version`, async () => {
    for (const version of [2, 3]) {
      await opened(build(arch, () => {}, { version }), ({ config, tensors, tokenizer }) => {
        assert.equal(config.architecture, arch);
        assert.equal(config.qkvBias, arch === "qwen2");
        assert.equal(config.qkNorm, arch === "qwen3");
        assert.equal(config.tiedEmbeddings, true);
        assert.equal(config.rope.pairing, arch === "llama" ? "adjacent" : "half");
        assert.equal(config.rope.dimensions, TINY.headDim);
        assert.equal(tensors.get("blk.0.attn_k")?.rows, TINY.kvHeads * TINY.headDim);
        assert.equal(tensors.get("blk.0.ffn_gate")?.rows, TINY.ff);
        assert.equal(tensors.get("blk.0.ffn_up")?.rows, TINY.ff);
        assert.ok(tokenizer?.kind === "gguf");
        assert.deepEqual(
          tokenizer.metadata["tokenizer.ggml.tokens"],
          [..."abcdefghijk", "\u0120t"],
        );
      });
    }
  });
}

Deno.test("openModel() reads Phi-3's fused GGUF tensors in order", async () => {
  const { hidden, ff } = TINY;
  const values = (rows: number) =>
    Array.from({ length: rows * hidden }, (_, i) => Math.floor(i / hidden));
  const bytes = build("phi3", (parts) => {
    change(
      parts,
      "blk.0.attn_qkv.weight",
      f32Tensor("blk.0.attn_qkv.weight", [32, 64], values(64)),
    );
    change(parts, "blk.0.ffn_up.weight", f32Tensor("blk.0.ffn_up.weight", [32, 128], values(128)));
  });
  await opened(bytes, async ({ tensors }) => {
    const first = { attn_q: 0, attn_k: 32, attn_v: 48, ffn_gate: 0, ffn_up: ff };
    for (const [name, row] of Object.entries(first)) {
      const out = new Float32Array(2);
      const tensor = tensors.get(`blk.0.${name}`)!;
      const rowBytes = tensor.byteLength / tensor.rows;
      await tensor.readInto(new Uint8Array(out.buffer, 0, 4), 0);
      await tensor.readInto(new Uint8Array(out.buffer, 4, 4), tensor.byteLength - rowBytes);
      assert.deepEqual([...out], [row, row + tensor.rows - 1], name);
    }
  });
});

Deno.test("openModel() reads RoPE scaling from GGUF metadata and tensors", async () => {
  const frequencies = (edit: (parts: Parts) => void, arch: Arch = "llama") =>
    opened(build(arch, edit), ({ config }) => config.rope);
  const plain = await frequencies(() => {});
  const near = (got: readonly number[], want: readonly number[]) =>
    got.forEach((value, i) => assert.ok(Math.abs(value / want[i]! - 1) < 1e-6, `${i}: ${value}`));

  const factors = Array.from({ length: 8 }, (_, i) => i + 1);
  const divided = await frequencies((p) =>
    p.tensors.push(f32Tensor("rope_freqs.weight", [8], factors))
  );
  near(divided.inverseFrequencies, plain.inverseFrequencies.map((f, i) => f / (i + 1)));

  for (const key of ["rope.scaling.factor", "rope.scale_linear"]) {
    const linear = await frequencies((p) => set(p, `llama.${key}`, f32(4)));
    near(linear.inverseFrequencies, plain.inverseFrequencies.map((f) => f / 4));
  }
  const off = await frequencies((p) => {
    set(p, "llama.rope.scaling.type", text("none"));
    set(p, "llama.rope.scaling.factor", f32(4));
  });
  assert.deepEqual(off, plain);

  const yarn = await frequencies((p) => {
    set(p, "qwen2.rope.scaling.type", text("yarn"));
    set(p, "qwen2.rope.scaling.factor", f32(4));
    set(p, "qwen2.rope.scaling.original_context_length", u32(32));
  }, "qwen2");
  assert.ok(Math.abs(yarn.attentionFactor - (0.1 * Math.log(4) + 1)) < 1e-12);
  near([yarn.inverseFrequencies[7]!], [plain.inverseFrequencies[7]! / 4]);

  const long = await frequencies((p) => {
    set(p, "phi3.rope.scaling.original_context_length", u32(16));
    set(p, "phi3.rope.scaling.attn_factor", f32(1.25));
    p.tensors.push(f32Tensor("rope_factors_short.weight", [8], factors));
    p.tensors.push(f32Tensor("rope_factors_long.weight", [8], factors.map((f) => 2 * f)));
  }, "phi3");
  near(long.inverseFrequencies, plain.inverseFrequencies.map((f, i) => f / (2 * i + 2)));
  near(long.short!.inverseFrequencies, plain.inverseFrequencies.map((f, i) => f / (i + 1)));
  assert.equal(long.short!.contextLength, 16);
  assert.equal(long.attentionFactor, 1.25);
});

Deno.test("openModel() cuts the context to an active sliding window and says so", async () => {
  const window = (tokens: number) =>
    opened(
      build("phi3", (p) => set(p, "phi3.attention.sliding_window", u32(tokens))),
      ({ config, notes }) => {
        if (notes.length > 0) assert.match(notes.join(), /a longer --context gives wrong output/);
        return [config.contextLength, notes.length];
      },
    );
  assert.deepEqual(await window(48), [48, 1]);
  assert.deepEqual(await window(64), [64, 0]);
  assert.deepEqual(await window(0), [64, 0]);
});

Deno.test("openModel() knows the end tokens of a GGUF file without a tokenizer", async () => {
  const bytes = build("llama", (p) => {
    p.metadata = p.metadata.filter(([key]) => !key.startsWith("tokenizer"));
    set(p, "tokenizer.ggml.model", text("none"));
    set(p, "tokenizer.ggml.eos_token_id", u32(2));
    set(p, "tokenizer.ggml.eot_token_id", u32(4));
    set(p, "tokenizer.ggml.eom_token_id", u32(1e9));
  });
  await opened(bytes, ({ tokenizer, endIds }) => {
    assert.equal(tokenizer, undefined);
    assert.deepEqual([...endIds], [2, 4]);
  });
});

Deno.test("openModel() takes optional things of GGUF files", async () => {
  const bytes = build("llama", (p) => {
    p.metadata = p.metadata.filter(([key]) =>
      !/rope|head_count_kv|tokenizer|general.name/.test(key)
    );
    set(p, "llama.attention.key_length", u32(TINY.headDim));
    set(p, "llama.attention.head_count_kv", {
      type: "array",
      of: 4,
      items: [u32(1)],
    });
    set(p, "llama.expert_count", u32(0));
    set(p, "other.nested", {
      type: "array",
      of: 9,
      items: [{ type: "array", of: 4, items: [u32(1)] }, { type: "array", of: 8, items: [] }],
    });
    for (const [name, rows] of [["q", 32], ["k", 16], ["v", 16]] as const) {
      p.tensors.push(f32Tensor(`blk.0.attn_${name}.bias`, [rows]));
    }
    p.tensors.push(f32Tensor("output.weight", [TINY.hidden, TINY.vocab]));
  });
  await opened(bytes, ({ config, tokenizer }) => {
    assert.equal(config.name, "m");
    assert.equal(config.qkvBias, true);
    assert.equal(config.tiedEmbeddings, false);
    assert.equal(config.rope.inverseFrequencies[1], 10_000 ** (-1 / 8));
    assert.equal(tokenizer, undefined);
  });
});
