import { assert } from "std-testing";
import type { ModelFileErrorCode } from "../../src/model/errors.ts";
import type { ModelSource } from "../../src/model/types.ts";
import {
  llamaFolder,
  rawSafetensors,
  type SafetensorsEntry,
  withFiles,
  writeSafetensors,
} from "../_model_files.ts";
import { assertRefused, withModel } from "./_refusal.ts";

type Files = Record<string, Uint8Array | string>;

/** Files of a tiny Llama with changed settings and tensors. */
function folder(
  settings: Record<string, unknown> = {},
  edit: (tensors: Record<string, SafetensorsEntry>) => void = () => {},
): Files {
  const { config, tensors } = llamaFolder();
  edit(tensors);
  return {
    "config.json": JSON.stringify({ ...config, ...settings }),
    "model.safetensors": writeSafetensors(tensors),
  };
}

/** The same in two files with an index; `map` may change it. */
function sharded(map: (map: Record<string, string>) => void = () => {}): Files {
  const { config, tensors } = llamaFolder();
  const names = Object.keys(tensors);
  const half = (from: number, to: number) =>
    writeSafetensors(Object.fromEntries(names.slice(from, to).map((n) => [n, tensors[n]!])));
  const weightMap = Object.fromEntries(
    names.map((name, i) => [name, i < 5 ? "model-1.safetensors" : "model-2.safetensors"]),
  );
  map(weightMap);
  return {
    "config.json": JSON.stringify(config),
    "model-1.safetensors": half(0, 5),
    "model-2.safetensors": half(5, names.length),
    "model.safetensors.index.json": JSON.stringify({ metadata: {}, weight_map: weightMap }),
  };
}

function opened<T>(files: Files, use: (model: ModelSource) => T | Promise<T>): Promise<T> {
  return withFiles(files, (path) => withModel(path, use));
}

function refused(files: Files, code: ModelFileErrorCode, ...words: string[]): Promise<void> {
  return withFiles(files, (path) => assertRefused(path, code, ...words));
}

Deno.test("openModel() reads shards with an index, and without one", async () => {
  const one = await opened(folder(), (model) => model.fingerprint());
  const files = sharded();
  assert.equal(await opened(files, (model) => model.fingerprint()), one);
  const { "model.safetensors.index.json": _, ...bare } = files;
  assert.equal(await opened(bare, (model) => model.fingerprint()), one);
});

Deno.test("openModel() keeps to the folder whatever an index says", async () => {
  for (
    const name of ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", "", 3]
  ) {
    const files = sharded((map) => Reflect.set(map, "model.norm.weight", name));
    await refused(files, "malformed", "its own folder");
  }
  await refused(
    sharded((map) => map["model.norm.weight"] = "model-9.safetensors"),
    "not_found",
    "model-9.safetensors",
  );
  await refused(
    sharded((map) => map["model.norm.weight"] = "model-1.safetensors"),
    "missing_tensor",
    "model.norm.weight",
  );
});

Deno.test("openModel() reads both spellings of RoPE settings alike", async () => {
  const rules = [
    { rope_type: "linear", factor: 2 },
    { rope_type: "dynamic_is_not", factor: 2 },
    {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 16,
    },
    { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
    {
      rope_type: "longrope",
      short_factor: [1, 1, 1, 1, 1, 1, 1, 2],
      long_factor: [4, 4, 4, 4, 4, 4, 4, 8],
      original_max_position_embeddings: 32,
    },
  ];
  for (const rule of rules) {
    const old = folder({ rope_theta: 5000, rope_scaling: rule, torch_dtype: "float32" });
    const { rope_type, ...rest } = rule;
    const older = folder({ rope_theta: 5000, rope_scaling: { type: rope_type, ...rest } });
    const now = folder({
      rope_theta: undefined,
      rope_parameters: { ...rule, rope_theta: 5000 },
      dtype: "float32",
    });
    if (rope_type === "dynamic_is_not") {
      for (const files of [old, older, now]) await refused(files, "bad_config", rope_type);
      continue;
    }
    const first = await opened(old, ({ config }) => config);
    assert.ok(first.rope.inverseFrequencies[7]! < 5000 ** (-7 / 8), rope_type);
    assert.equal(first.contextLength, rope_type === "yarn" ? 256 : 64);
    for (const files of [older, now]) {
      const { name: _a, ...got } = await opened(files, ({ config }) => config);
      const { name: _b, ...want } = first;
      assert.deepEqual(got, want);
    }
  }
});

Deno.test("openModel() reads a head size and a share of it that is rotated", async () => {
  await opened(folder({ partial_rotary_factor: 0.5 }), ({ config }) => {
    assert.equal(config.rope.dimensions, 8);
    assert.equal(config.rope.inverseFrequencies.length, 4);
  });
  await refused(folder({ head_dim: 8 }), "shape_mismatch", "q_proj");
  await opened(folder({ head_dim: null }), ({ config }) => assert.equal(config.headDim, 16));
});

Deno.test("openModel() heeds sliding windows only where a family uses them", async () => {
  const context = (settings: Record<string, unknown>, edit?: Parameters<typeof folder>[1]) =>
    opened(folder(settings, edit), ({ config }) => config.contextLength);
  const bias = (tensors: Record<string, SafetensorsEntry>) => {
    for (const [name, rows] of [["q", 32], ["k", 16], ["v", 16]] as const) {
      tensors[`model.layers.0.self_attn.${name}_proj.bias`] = {
        dtype: "F32",
        shape: [rows],
        data: new Uint8Array(4 * rows),
      };
    }
  };
  assert.equal(await context({ model_type: "mistral", sliding_window: 16 }), 16);
  assert.equal(await context({ model_type: "mistral", sliding_window: null }), 64);
  assert.equal(await context({ sliding_window: 16 }), 64);
  const qwen = { model_type: "qwen2", sliding_window: 16 };
  assert.equal(await context({ ...qwen, use_sliding_window: false }, bias), 64);
  assert.equal(await context({ ...qwen, use_sliding_window: true }, bias), 16);
  const sliding = { layer_types: ["sliding_attention"] };
  assert.equal(await context({ ...qwen, ...sliding }, bias), 16);
  await refused(folder({ ...sliding, sliding_window: null }), "bad_config", "sliding_window");
  await refused(folder({ layer_types: ["chunked_attention"] }), "bad_config", "chunked");
});

const BAD_SETTINGS: [Record<string, unknown>, ModelFileErrorCode, string][] = [
  [{ model_type: "gemma2" }, "unsupported_architecture", "gemma2"],
  [{ model_type: undefined }, "unsupported_architecture", "missing"],
  [{ hidden_act: "gelu" }, "bad_config", "hidden_act"],
  [{ attention_bias: true }, "bad_config", "attention_bias"],
  [{ mlp_bias: true }, "bad_config", "mlp_bias"],
  [{ num_local_experts: 8 }, "bad_config", "num_local_experts"],
  [{ final_logit_softcapping: 30 }, "bad_config", "final_logit_softcapping"],
  [{ logits_scaling: 8 }, "bad_config", "logits_scaling"],
  [{ quantization_config: { quant_method: "gptq" } }, "bad_config", "quantization_config"],
  [{ rope_scaling: { type: "dynamic", factor: 2 } }, "bad_config", "dynamic"],
  [{ rope_scaling: { factor: 2 } }, "bad_config", "rope_type"],
  [{ rope_scaling: { type: "linear" } }, "bad_config", "factor"],
  [{ rope_scaling: { type: "linear", factor: 0 } }, "bad_config", "factor"],
  [{ rope_scaling: "linear" }, "bad_config", "rope_scaling"],
  [{ rope_parameters: { full_attention: { rope_theta: 1e4 } } }, "bad_config", "layer"],
  [
    { rope_scaling: { type: "longrope", short_factor: [1], long_factor: [1] } },
    "bad_config",
    "8 pairs",
  ],
  [{ tie_word_embeddings: false }, "missing_tensor", "lm_head.weight"],
  [{ tie_word_embeddings: "yes" }, "bad_config", "tiedEmbeddings"],
  [{ vocab_size: 13 }, "shape_mismatch", "embed_tokens"],
  [{ num_hidden_layers: 2 }, "missing_tensor", "layers.1"],
  [{ num_hidden_layers: 1e9 }, "bad_config", "numLayers"],
  [{ rms_norm_eps: undefined }, "bad_config", "rmsNormEps is missing"],
  [{ max_position_embeddings: "many" }, "bad_config", "contextLength"],
];

for (const [settings, code, word] of BAD_SETTINGS) {
  Deno.test(`openModel() refuses config.json with ${JSON.stringify(settings)}`, async () => {
    await refused(folder(settings), code, word);
  });
}

const entry = (patch: Partial<SafetensorsEntry>) => (tensors: Record<string, SafetensorsEntry>) => {
  tensors["model.norm.weight"] = { ...tensors["model.norm.weight"]!, ...patch };
};
const extra = (name: string) => (tensors: Record<string, SafetensorsEntry>) => {
  tensors[name] = { dtype: "F32", shape: [1], data: new Uint8Array(4) };
};

const BAD_TENSORS: [string, Parameters<typeof folder>[1], ModelFileErrorCode, string][] = [
  ["of another type", entry({ dtype: "I8", shape: [128] }), "shape_mismatch", "norm"],
  [
    "of an unsupported type",
    entry({ dtype: "F8_E4M3", shape: [32] }),
    "unsupported_type",
    "F8_E4M3",
  ],
  ["with bytes unlike its shape", entry({ shape: [31] }), "malformed", "norm"],
  ["with an impossible shape", entry({ shape: [2 ** 40, 2 ** 40] }), "malformed", "shape"],
  ["with a negative shape", entry({ shape: [-32] }), "malformed", "entry"],
  ["that overlaps", entry({ offsets: [0, 128] }), "malformed", "overlap"],
  ["beyond the file", entry({ offsets: [2 ** 40, 2 ** 40 + 128] }), "truncated", "ends early"],
  ["with offsets in the wrong order", entry({ offsets: [128, 0] }), "malformed", "order"],
  [
    "that has no place",
    extra("model.layers.0.mlp.up_proj.bias"),
    "unsupported_architecture",
    "bias",
  ],
];

for (const [what, edit, code, word] of BAD_TENSORS) {
  Deno.test(`openModel() refuses a safetensors tensor ${what}`, async () => {
    await refused(folder({}, edit), code, word);
  });
}

Deno.test("openModel() passes over what says nothing about the weights", async () => {
  const files = folder({}, (tensors) => {
    extra("model.layers.0.self_attn.rotary_emb.inv_freq")(tensors);
    extra("lm_head.weight")(tensors);
  });
  await opened(files, (model) => assert.equal(model.tensors.size, 11));
});

Deno.test("openModel() refuses broken safetensors headers", async () => {
  const { "config.json": config } = folder();
  const file = (bytes: Uint8Array) => ({ "config.json": config!, "model.safetensors": bytes });
  await refused(file(new Uint8Array(3)), "truncated", "ends early");
  await refused(file(rawSafetensors({ json: "{}", claimed: 1n << 20n })), "truncated");
  await refused(file(rawSafetensors({ json: "{}", claimed: 1n << 63n })), "malformed", "limit");
  await refused(file(rawSafetensors("[]")), "malformed", "object");
  await refused(file(rawSafetensors("{")), "malformed", "JSON");
  await refused(file(rawSafetensors('{"a":{},"a":{}}')), "malformed", "twice");
  await refused(file(rawSafetensors(`{"a":${"[".repeat(9)}`)), "malformed", "nested");
  await refused(file(rawSafetensors("{}")), "missing_tensor", "embed_tokens");
});

Deno.test("openModel() says what is missing in a folder", async () => {
  const { config } = llamaFolder();
  const files = { "config.json": JSON.stringify(config) };
  await refused(files, "not_found", "no .safetensors");
  await refused(
    { ...files, "pytorch_model.bin": "x" },
    "not_found",
    "pytorch_model.bin",
    "convert",
  );
  await refused({ "config.json": "{" }, "malformed", "config.json");
  await refused({ ...folder(), "tokenizer.json": "[1]" }, "malformed", "tokenizer.json");
});

Deno.test("openModel() gathers the text side of a folder", async () => {
  const files = {
    ...folder(),
    "tokenizer.json": JSON.stringify({ model: { type: "BPE" } }),
    "tokenizer_config.json": JSON.stringify({ chat_template: "old", bos_token: "<s>" }),
    "chat_template.jinja": "new",
    "generation_config.json": JSON.stringify({ eos_token_id: [5, 6], temperature: 0.6 }),
  };
  await opened(files, ({ tokenizer, notes }) => {
    assert.deepEqual(notes, []);
    assert.deepEqual(tokenizer, {
      kind: "huggingface",
      tokenizer: { model: { type: "BPE" } },
      config: { chat_template: "new", bos_token: "<s>" },
      generation: { eos_token_id: [5, 6] },
    });
  });
  await opened(folder(), ({ tokenizer, notes }) => {
    assert.equal(tokenizer, undefined);
    assert.match(notes.join(), /tokenizer.json/);
  });
});

Deno.test("openModel() knows the end tokens of a folder without a tokenizer", async () => {
  const ends = (settings: Record<string, unknown>, generation?: unknown) =>
    opened(
      {
        ...folder(settings),
        ...(generation === undefined
          ? {}
          : { "generation_config.json": JSON.stringify({ eos_token_id: generation }) }),
      },
      ({ endIds }) => [...endIds],
    );
  assert.deepEqual(await ends({ eos_token_id: 3 }), [3]);
  assert.deepEqual(await ends({ eos_token_id: 3 }, [5, 6]), [5, 6]);
  assert.deepEqual(await ends({ eos_token_id: null }), []);
  assert.deepEqual(await ends({ eos_token_id: [1e9, -1, 1.5, "2", 4] }), [4]);
});
