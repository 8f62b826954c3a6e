/** Models in Hugging Face folders: `config.json`, `*.safetensors`, optionally a tokenizer. @module */

import { ModelFileError } from "./errors.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { huggingFaceConfig, huggingFaceFamily, tokenIds } from "./huggingface_config.ts";
import {
  isJsonObject,
  type JsonObject,
  readJsonObject,
  SETTINGS_LIMITS,
  TOKENIZER_LIMITS,
} from "./json_file.ts";
import { asNotFound, ModelFile } from "./model_file.ts";
import { readSafetensors } from "./safetensors.ts";
import { SIDE_FILES } from "./side_files.ts";
import { modelSource, validIds } from "./source.ts";
import { resolveTensors, type StoredTensor, type TensorNaming } from "./tensors.ts";
import type { ModelSource, TokenizerSource } from "./types.ts";

const MAX_FILES = 256;
const MAX_TEMPLATE_BYTES = 4 << 20;
const INDEX = "model.safetensors.index.json";

/** Names inside a layer, by the canonical name without `blk.L.`. */
const LAYER_NAMES: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm.weight",
  attn_q: "self_attn.q_proj.weight",
  attn_k: "self_attn.k_proj.weight",
  attn_v: "self_attn.v_proj.weight",
  "attn_q.bias": "self_attn.q_proj.bias",
  "attn_k.bias": "self_attn.k_proj.bias",
  "attn_v.bias": "self_attn.v_proj.bias",
  attn_q_norm: "self_attn.q_norm.weight",
  attn_k_norm: "self_attn.k_norm.weight",
  attn_qkv: "self_attn.qkv_proj.weight",
  attn_output: "self_attn.o_proj.weight",
  ffn_norm: "post_attention_layernorm.weight",
  ffn_gate: "mlp.gate_proj.weight",
  ffn_up: "mlp.up_proj.weight",
  ffn_gate_up: "mlp.gate_up_proj.weight",
  ffn_down: "mlp.down_proj.weight",
};

const OTHER_NAMES: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens.weight",
  output_norm: "model.norm.weight",
  output: "lm_head.weight",
};

/**
 * Opens a model folder: checks all of it but the weights themselves.
 *
 * @throws {ModelFileError} If anything in it is wrong or not supported.
 */
export function openHuggingFace(folder: string): ModelSource {
  const base = folder.replace(/(?<=[^/\\])[/\\]+$/, "");
  const configPath = `${base}/config.json`;
  const json = readJsonObject(configPath, SETTINGS_LIMITS);
  if (!json) {
    throw new ModelFileError(
      "not_found",
      folder,
      `${folder} has no config.json: give a .gguf file, or a Hugging Face folder with config.json ` +
        "and .safetensors files",
    );
  }
  const family = huggingFaceFamily(configPath, json);
  const { config, notes } = huggingFaceConfig(configPath, json, folderName(base));

  const files: ModelFile[] = [];
  const close = () => files.forEach((file) => file.close());
  try {
    const stored = readAll(base, files);
    const naming: TensorNaming = {
      fileName: huggingFaceName,
      fused: family.fused ? { qkv: "attn_qkv", gateUp: "ffn_gate_up" } : undefined,
      ignores: (name) =>
        name.endsWith(".rotary_emb.inv_freq") ||
        (config.tiedEmbeddings && name === OTHER_NAMES["output"]),
    };
    const tensors = resolveTensors(folder, config, stored, naming);
    const text = readTokenizer(base, json);
    return modelSource({
      path: folder,
      config,
      tensors,
      tokenizer: text.tokenizer,
      endIds: validIds([text.ids["eos_token_id"]], config.vocabSize),
      notes: [...notes, ...text.notes],
      fingerprint: () => fingerprintOf(config, tensors),
      close,
    });
  } catch (error) {
    close();
    throw error;
  }
}

function huggingFaceName(canonical: string): string {
  const layer = /^blk\.(\d+)\.(.+)$/.exec(canonical);
  const name = layer ? LAYER_NAMES[layer[2]!] : OTHER_NAMES[canonical];
  if (name === undefined) throw new RangeError(`no name for the tensor ${canonical}`);
  return layer ? `model.layers.${layer[1]}.${name}` : name;
}

/** Tables of all weight files of a folder, in one. `files` gets every file that was opened. */
function readAll(base: string, files: ModelFile[]): Map<string, StoredTensor> {
  const stored = new Map<string, StoredTensor>();
  const { names, index } = listFiles(base);
  for (const name of names) {
    const file = ModelFile.open(`${base}/${name}`);
    files.push(file);
    for (const [tensorName, tensor] of readSafetensors(file)) {
      // An index says which file a tensor comes from; copies in other files do not count.
      if (index && index.get(tensorName) !== name) continue;
      if (stored.has(tensorName)) {
        throw new ModelFileError("malformed", base, `${base}: two files have ${tensorName}`);
      }
      stored.set(tensorName, tensor);
    }
  }
  return stored;
}

interface WeightFiles {
  readonly names: readonly string[];
  /** File of each tensor, where the folder has an index. */
  readonly index?: ReadonlyMap<string, string>;
}

function listFiles(base: string): WeightFiles {
  let found: string[];
  try {
    found = [...Deno.readDirSync(base)].map((entry) => entry.name);
  } catch (error) {
    throw asNotFound(error, base);
  }
  const weights = found
    .filter((name) => name.endsWith(".safetensors") && !SIDE_FILES.includes(name))
    .sort();
  if (weights.includes("model.safetensors")) return { names: ["model.safetensors"] };
  const index = readJsonObject(`${base}/${INDEX}`, SETTINGS_LIMITS);
  if (index) return readIndex(base, index["weight_map"]);
  if (weights.length === 0) {
    const other = found.find((name) => /\.(bin|pth?|gguf|h5|msgpack)$/.test(name));
    throw new ModelFileError(
      "not_found",
      base,
      `${base} has no .safetensors file` + (other === undefined ? "" : ` (only ${other})`) +
        ": convert the weights to safetensors, or give the path of a .gguf file",
    );
  }
  return { names: checkNumber(base, weights) };
}

function readIndex(base: string, map: unknown): WeightFiles {
  const path = `${base}/${INDEX}`;
  if (!isJsonObject(map)) {
    throw new ModelFileError("malformed", path, `${path} has no weight_map`);
  }
  const index = new Map<string, string>();
  for (const [tensor, name] of Object.entries(map)) {
    if (typeof name !== "string" || !/^[\w-][\w.-]*\.safetensors$/.test(name)) {
      throw new ModelFileError(
        "malformed",
        path,
        `${path} names ${JSON.stringify(name)?.slice(0, 80)}, which is no .safetensors file of ` +
          "its own folder",
      );
    }
    index.set(tensor, name);
  }
  return { names: checkNumber(base, [...new Set(index.values())].sort()), index };
}

function checkNumber(base: string, names: readonly string[]): readonly string[] {
  if (names.length <= MAX_FILES) return names;
  throw new ModelFileError(
    "malformed",
    base,
    `${base} has ${names.length} weight files, the limit is ${MAX_FILES}`,
  );
}

function readTokenizer(
  base: string,
  config: JsonObject,
): { tokenizer: TokenizerSource | undefined; ids: JsonObject; notes: string[] } {
  const generation = readJsonObject(`${base}/generation_config.json`, SETTINGS_LIMITS) ?? {};
  const ids = tokenIds(config, generation);
  const tokenizer = readJsonObject(`${base}/tokenizer.json`, TOKENIZER_LIMITS);
  if (!tokenizer) {
    const note = `${folderName(base)} has no tokenizer.json: the model serves token ids only`;
    return { tokenizer: undefined, ids, notes: [note] };
  }
  const settings = readJsonObject(`${base}/tokenizer_config.json`, SETTINGS_LIMITS) ?? {};
  const template = readTemplate(`${base}/chat_template.jinja`);
  return {
    tokenizer: {
      kind: "huggingface",
      tokenizer,
      // The file of its own is the newer place and wins.
      config: template === undefined ? settings : { ...settings, chat_template: template },
      generation: ids,
    },
    ids,
    notes: [],
  };
}

function readTemplate(path: string): string | undefined {
  try {
    Deno.statSync(path);
  } catch {
    return undefined;
  }
  const file = ModelFile.open(path);
  try {
    if (file.size > MAX_TEMPLATE_BYTES) {
      throw new ModelFileError(
        "bad_template",
        path,
        `${path} has over ${MAX_TEMPLATE_BYTES} bytes`,
      );
    }
    const bytes = new Uint8Array(file.size);
    file.readFully(bytes, 0);
    return new TextDecoder().decode(bytes);
  } finally {
    file.close();
  }
}

function folderName(base: string): string {
  return (base === "." || base === ".." ? Deno.realPathSync(base) : base).replace(/^.*[/\\]/, "");
}
