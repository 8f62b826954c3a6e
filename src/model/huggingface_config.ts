/** Configuration of a model from a Hugging Face `config.json`, old and new spelling. @module */

import {
  badConfig,
  checkConfig,
  type ConfigWithNotes,
  cutToWindow,
  describe,
} from "./config_check.ts";
import { ModelFileError } from "./errors.ts";
import { isJsonObject, type JsonObject } from "./json_file.ts";
import { huggingFaceScaling } from "./huggingface_rope.ts";

interface Family {
  readonly qkvBias: boolean;
  readonly qkNorm: boolean;
  readonly fused: boolean;
  /** When `sliding_window` counts: never, always, or only with `use_sliding_window`. */
  readonly window: "never" | "always" | "if_used";
}

const FAMILIES: Readonly<Record<string, Family>> = {
  llama: { qkvBias: false, qkNorm: false, fused: false, window: "never" },
  mistral: { qkvBias: false, qkNorm: false, fused: false, window: "always" },
  qwen2: { qkvBias: true, qkNorm: false, fused: false, window: "if_used" },
  qwen3: { qkvBias: false, qkNorm: true, fused: false, window: "if_used" },
  phi3: { qkvBias: false, qkNorm: false, fused: true, window: "always" },
};

/** Keys that change what a model computes, and the values with which they do not. */
const NEUTRAL_ONLY: readonly (readonly [key: string, ...neutral: readonly unknown[]])[] = [
  ["hidden_act", "silu", "swish"],
  ["attention_bias", false],
  ["mlp_bias", false],
  ["num_local_experts", 0],
  ["num_experts", 0],
  ["n_routed_experts", 0],
  ["attn_logit_softcapping", 0],
  ["final_logit_softcapping", 0],
  ["query_pre_attn_scalar"],
  ["clip_qkv"],
  ["qk_layernorm", false],
  ["use_qk_norm", false],
  ["logit_scale", 1],
  ["logits_scaling", 1],
  ["embedding_multiplier", 1],
  ["residual_multiplier", 1],
  ["attention_multiplier"],
  ["no_rope_layers"],
  ["attention_chunk_size"],
  ["quantization_config"],
];

/**
 * Family of a model folder.
 *
 * @throws {ModelFileError} `unsupported_architecture`.
 */
export function huggingFaceFamily(path: string, json: JsonObject): Family & { name: string } {
  const name = json["model_type"];
  const family = typeof name === "string" && Object.hasOwn(FAMILIES, name)
    ? FAMILIES[name]
    : undefined;
  if (typeof name !== "string" || !family) {
    throw new ModelFileError(
      "unsupported_architecture",
      path,
      `${path}: model_type ${describe(name)}; supported are ${Object.keys(FAMILIES).join(", ")}`,
    );
  }
  return { ...family, name };
}

/**
 * Reads and checks the configuration.
 *
 * @param path - The `config.json`, for messages.
 * @throws {ModelFileError} `unsupported_architecture` or `bad_config`.
 */
export function huggingFaceConfig(path: string, json: JsonObject, name: string): ConfigWithNotes {
  const family = huggingFaceFamily(path, json);
  for (const [key, ...neutral] of NEUTRAL_ONLY) {
    const value = json[key] ?? undefined;
    if (value !== undefined && !neutral.includes(value)) {
      throw badConfig(path, `${key} ${describe(value)}, which is not supported`);
    }
  }
  const hiddenSize = json["hidden_size"];
  const numHeads = json["num_attention_heads"];
  const headDim = json["head_dim"] ??
    (typeof hiddenSize === "number" && typeof numHeads === "number"
      ? hiddenSize / numHeads
      : undefined);
  const rope = huggingFaceScaling(path, json, headDim);
  const { contextLength, notes } = cutToWindow(
    rope.contextLength,
    activeWindow(path, json, family),
  );

  const config = checkConfig(path, {
    architecture: family.name,
    name,
    vocabSize: json["vocab_size"],
    hiddenSize,
    intermediateSize: json["intermediate_size"],
    numLayers: json["num_hidden_layers"],
    numHeads,
    numKvHeads: json["num_key_value_heads"] ?? numHeads,
    headDim,
    contextLength,
    rmsNormEps: json["rms_norm_eps"],
    ropeDimensions: rope.dimensions,
    ropePairing: "half",
    ropeTheta: rope.theta,
    ropeScaling: rope.scaling,
    ropeDivisors: undefined,
    qkvBias: family.qkvBias,
    qkNorm: family.qkNorm,
    tiedEmbeddings: json["tie_word_embeddings"] ?? false,
  });
  return { config, notes };
}

/** Length of the window of the layers that use one. */
function activeWindow(path: string, json: JsonObject, family: Family): unknown {
  const layers = json["layer_types"];
  const kinds = new Set(Array.isArray(layers) ? layers : []);
  const sliding = kinds.delete("sliding_attention");
  kinds.delete("full_attention");
  if (kinds.size > 0) {
    throw badConfig(path, `layer_types has ${describe([...kinds][0]).slice(3)}: not supported`);
  }
  const window = json["sliding_window"];
  if (sliding && typeof window !== "number") {
    throw badConfig(path, "layer_types has sliding_attention and sliding_window is not a number");
  }
  if (sliding) return window;
  if (Array.isArray(layers) && layers.length > 0) return undefined;
  if (family.window === "never") return undefined;
  return family.window === "always" || json["use_sliding_window"] === true ? window : undefined;
}

/** Token ids that end or begin texts, of `config.json` and over it `generation_config.json`. */
export function tokenIds(config: JsonObject, generation: JsonObject): JsonObject {
  const ids = [...Object.entries(config), ...Object.entries(generation)]
    .filter(([key, value]) => key.endsWith("_token_id") && value !== null && !isJsonObject(value));
  return Object.fromEntries(ids);
}
