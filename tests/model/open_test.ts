import { gguf } from "@huggingface/gguf";
import { assert, memoryInUse } from "std-testing";
import { DEFAULT_MODEL } from "../../src/assets.ts";
import { sha256OfFile } from "../../src/model/fingerprint.ts";
import { openModel } from "../../src/model/open.ts";
import { dequantizeRow } from "../../src/model/quants.ts";
import type { WeightTensor } from "../../src/model/types.ts";
import { withFiles } from "../_model_files.ts";
import { assertRefused, withModel } from "./_refusal.ts";

const TINY = new URL("../data/tiny/", import.meta.url).pathname;
const DEFAULT = new URL(`../../${DEFAULT_MODEL.path}`, import.meta.url).pathname;

const SHARED = {
  vocabSize: 320,
  hiddenSize: 128,
  intermediateSize: 224,
  numLayers: 3,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 32,
  contextLength: 256,
  qkvBias: false,
  qkNorm: false,
  tiedEmbeddings: false,
};

const FOLDERS = {
  "llama2-mha-f16": { numKvHeads: 4, architecture: "llama", type: "F16" },
  "llama31-bf16": { contextLength: 2048, architecture: "llama", type: "BF16" },
  "mistral-f32": { architecture: "mistral", type: "F32" },
  "phi3-fused-f32": { architecture: "phi3", type: "F32" },
  "qwen2-bias-tied-f32": {
    architecture: "qwen2",
    type: "F32",
    qkvBias: true,
    tiedEmbeddings: true,
  },
  "qwen3-qknorm-f32": {
    architecture: "qwen3",
    type: "F32",
    hiddenSize: 96,
    qkNorm: true,
    tiedEmbeddings: true,
  },
};

for (const [name, { type, ...expected }] of Object.entries(FOLDERS)) {
  Deno.test(`openModel() reads the folder ${name}`, async () => {
    await withModel(TINY + name, (model) => {
      const { rope, rmsNormEps, name: displayName, ...config } = model.config;
      assert.deepEqual(config, { ...SHARED, ...expected });
      assert.equal(displayName, name);
      assert.equal(rmsNormEps, name.startsWith("qwen") ? 1e-6 : 1e-5);
      assert.equal(rope.pairing, "half");
      assert.equal(rope.dimensions, 32);
      assert.equal(rope.inverseFrequencies.length, 16);
      for (const tensor of model.tensors.values()) assert.equal(tensor.type, type);
      assert.equal(model.tokenizer?.kind, name === "llama31-bf16" ? "huggingface" : undefined);
    });
  });
}

Deno.test("openModel() reads RoPE scaling in the old spelling and token ids", async () => {
  await withModel(`${TINY}llama31-bf16/`, ({ config, tokenizer }) => {
    // The slowest angle is stretched by the whole factor, the fastest is left alone.
    assert.equal(config.rope.inverseFrequencies[0], 1);
    const slowest = 500_000 ** (-30 / 32) / 8;
    assert.ok(Math.abs(config.rope.inverseFrequencies[15]! / slowest - 1) < 1e-12);
    assert.ok(tokenizer?.kind === "huggingface");
    assert.deepEqual(tokenizer.generation, { bos_token_id: 1, eos_token_id: 2, pad_token_id: 0 });
    assert.equal(typeof tokenizer.config["chat_template"], "string");
  });
});

Deno.test("openModel() reads the mixed GGUF files with the types they were made with", async () => {
  const golden: Record<string, { types: Record<string, string> }> = JSON.parse(
    await Deno.readTextFile(`${TINY}expected-gguf.json`),
  );
  assert.equal(Object.keys(golden).length, 4);
  for (const [name, { types }] of Object.entries(golden)) {
    await withModel(`${TINY}${name}.gguf`, (model) => {
      assert.equal(model.config.rope.pairing, "adjacent");
      assert.equal(model.config.tiedEmbeddings, false);
      assert.equal(model.tokenizer?.kind, "gguf");
      for (const tensor of model.tensors.values()) {
        const want = types[tensor.name.replace(/^blk\.\d+\./, "")] ?? "F32";
        assert.equal(tensor.type, want, tensor.name);
      }
    });
  }
});

Deno.test("openModel() reads the default model", async () => {
  await withModel(DEFAULT, async (model) => {
    const { config } = model;
    assert.deepEqual({
      vocabSize: config.vocabSize,
      hiddenSize: config.hiddenSize,
      intermediateSize: config.intermediateSize,
      numLayers: config.numLayers,
      numHeads: config.numHeads,
      numKvHeads: config.numKvHeads,
      headDim: config.headDim,
      contextLength: config.contextLength,
      tied: config.tiedEmbeddings,
    }, {
      vocabSize: 49152,
      hiddenSize: 576,
      intermediateSize: 1536,
      numLayers: 30,
      numHeads: 9,
      numKvHeads: 3,
      headDim: 64,
      contextLength: 8192,
      tied: true,
    });
    const slowest = 100_000 ** (-62 / 64);
    assert.ok(Math.abs(config.rope.inverseFrequencies[31]! / slowest - 1) < 1e-12);
    assert.equal(model.numParameters, 134_515_008);
    assert.equal(model.tensors.size, 272);
    for (const { name, type } of model.tensors.values()) {
      const want = name === "token_embd" ? "Q8_0" : name.endsWith("norm") ? "F32" : "Q4_1";
      assert.equal(type, want, name);
    }
    assert.deepEqual(model.notes, []);
    assert.match(await model.fingerprint(), /^[0-9a-f]{64}$/);
  });
});

Deno.test("openModel() agrees with another GGUF reader on the default model", async () => {
  const other = await gguf(DEFAULT, { allowLocalFile: true });
  await withModel(DEFAULT, ({ tokenizer }) => {
    assert.ok(tokenizer?.kind === "gguf");
    const keys = Object.keys(other.metadata).filter((key) => /^(tokenizer|general)\./.test(key));
    assert.deepEqual(Object.keys(tokenizer.metadata).sort(), keys.sort());
    for (const key of keys) {
      assert.deepEqual(tokenizer.metadata[key], Reflect.get(other.metadata, key), key);
    }
  });
});

Deno.test("openModel() opens the default model in well under 0.4 s", async () => {
  let best = Infinity;
  for (let i = 0; i < 3; i++) {
    const start = performance.now();
    (await openModel(DEFAULT)).close();
    best = Math.min(best, performance.now() - start);
  }
  assert.ok(best < 400, `${best} ms`);
});

Deno.test("readInto() streams all weights without holding the file in memory", async () => {
  await withModel(DEFAULT, async (model) => {
    const piece = new Uint8Array(8 << 20).fill(1);
    const before = memoryInUse();
    let most = 0;
    let total = 0;
    for (const tensor of model.tensors.values()) {
      for (let at = 0; at < tensor.byteLength; at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, tensor.byteLength - at));
        await tensor.readInto(part, at);
        total += part.length;
        most = Math.max(most, memoryInUse() - before);
      }
    }
    assert.equal(total, model.sizeBytes);
    assert.ok(most < 24 << 20, `memory grew by ${most} bytes`);
  });
});

Deno.test("readInto() gives the same bytes to readers that run at once", async () => {
  await withModel(`${TINY}llama-floats.gguf`, async ({ tensors }) => {
    const all = [...tensors.values()];
    const alone: Uint8Array[] = [];
    for (const tensor of all) alone.push(await readAll(tensor));
    const together = await Promise.all(all.map(readAll));
    assert.deepEqual(together, alone);
  });
});

Deno.test("readInto() refuses ranges outside the tensor and a closed model", async () => {
  const model = await openModel(`${TINY}llama-low.gguf`);
  const norm = model.tensors.get("output_norm")!;
  for (const offset of [-1, 0.5, norm.byteLength - 3, Number.MAX_SAFE_INTEGER, NaN]) {
    await assert.rejects(norm.readInto(new Uint8Array(4), offset), { code: "truncated" });
  }
  await norm.readInto(new Uint8Array(4), norm.byteLength - 4);
  model.close();
  model.close();
  await assert.rejects(norm.readInto(new Uint8Array(4), 0), /closed/);
});

Deno.test("readInto() reports a file that became shorter", async () => {
  const bytes = await Deno.readFile(`${TINY}llama-low.gguf`);
  await withFiles({ "m.gguf": bytes }, async (folder) => {
    await withModel(`${folder}/m.gguf`, async ({ tensors }) => {
      await Deno.truncate(`${folder}/m.gguf`, 20_000);
      await assert.rejects(readAll(tensors.get("output")!), { code: "truncated" });
    });
  });
});

Deno.test("openModel() shows fused tensors as rows under their own names", async () => {
  const path = `${TINY}phi3-fused-f32`;
  const file = await Deno.readFile(`${path}/model.safetensors`);
  const length = Number(new DataView(file.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  await withModel(path, async ({ tensors }) => {
    for (
      const [fused, parts] of [
        ["self_attn.qkv_proj", ["attn_q", "attn_k", "attn_v"]],
        ["mlp.gate_up_proj", ["ffn_gate", "ffn_up"]],
      ] as const
    ) {
      const [begin, end] = header[`model.layers.1.${fused}.weight`].data_offsets;
      const whole: number[] = [];
      for (const part of parts) whole.push(...await readAll(tensors.get(`blk.1.${part}`)!));
      assert.deepEqual(Uint8Array.from(whole), file.subarray(8 + length + begin, 8 + length + end));
    }
  });
});

Deno.test("fingerprint() depends on the weights and not on path or name", async () => {
  const path = `${TINY}llama-low.gguf`;
  const bytes = await Deno.readFile(path);
  const original = await withModel(path, (model) => model.fingerprint());
  assert.equal(await withModel(path, (model) => model.fingerprint()), original);
  const place = new TextDecoder("latin1").decode(bytes).indexOf("tiny-low");
  const renamed = bytes.slice();
  renamed[place] = 0x54;
  const touched = bytes.slice();
  await withModel(path, async ({ tensors }) => {
    const start = await readAll(tensors.get("output")!);
    const at = indexOf(bytes, start.subarray(0, 64));
    touched[at + 5]! ^= 1;
  });
  await withFiles({ "a.gguf": renamed, "b.gguf": touched }, async (folder) => {
    assert.equal(await withModel(`${folder}/a.gguf`, (m) => m.fingerprint()), original);
    assert.notEqual(await withModel(`${folder}/b.gguf`, (m) => m.fingerprint()), original);
  });
});

Deno.test("sha256OfFile() is the listed one for the default model, with progress", async () => {
  const seen: number[] = [];
  assert.equal(await sha256OfFile(DEFAULT, (f) => seen.push(f)), DEFAULT_MODEL.sha256);
  assert.equal(seen.at(-1), 1);
  assert.ok(seen.length > 5 && seen.every((f, i) => i === 0 || f > seen[i - 1]!));
});

Deno.test("sha256OfFile() of an empty and of a missing file", async () => {
  await withFiles({ empty: "" }, async (folder) => {
    const known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert.equal(await sha256OfFile(`${folder}/empty`), known);
    await assert.rejects(sha256OfFile(`${folder}/none`), { code: "not_found" });
  });
});

Deno.test("openModel() says what to do about paths that are no model", async () => {
  await assertRefused("/nowhere/model.gguf", "not_found", "no such file", "--model");
  await assertRefused("", "not_found");
  await assertRefused("a\0b", "not_found");
  const files = { "model.safetensors": "x", "notes.txt": "hello", "empty.gguf": "" };
  await withFiles(files, async (folder) => {
    await assertRefused(folder, "not_found", "no config.json", ".gguf");
    await assertRefused(`${folder}/model.safetensors`, "unknown_format", "folder");
    await assertRefused(`${folder}/notes.txt`, "unknown_format", "hell", ".gguf");
    await assertRefused(`${folder}/empty.gguf`, "unknown_format", "empty");
  });
});

Deno.test("openModel() does not wait on devices", async () => {
  await assertRefused("/dev/zero", "not_found", "not a regular file");
});

async function readAll(tensor: WeightTensor): Promise<Uint8Array> {
  const bytes = new Uint8Array(tensor.byteLength);
  await tensor.readInto(bytes, 0);
  const values = new Float32Array(tensor.rows * tensor.cols);
  dequantizeRow(tensor.type, bytes, values);
  assert.ok(values.every(Number.isFinite), `${tensor.name} has values that are not finite`);
  return bytes;
}

function indexOf(haystack: Uint8Array, needle: Uint8Array): number {
  return new TextDecoder("latin1").decode(haystack).indexOf(
    new TextDecoder("latin1").decode(needle),
  );
}
