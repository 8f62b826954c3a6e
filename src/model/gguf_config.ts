/** Configuration of a model from GGUF metadata. @module */

import {
  badConfig,
  checkConfig,
  type ConfigWithNotes,
  cutToWindow,
  describe,
} from "./config_check.ts";
import { ModelFileError } from "./errors.ts";
import type { GgufMetadata } from "./gguf_header.ts";
import { longropeAttentionFactor, yarnAttentionFactor } from "./rope.ts";
import type { RopeConfig } from "./types.ts";

interface Family {
  /** Converters store q and k rows of `llama` so that rotated dimensions are neighbours. */
  readonly pairing: RopeConfig["pairing"];
  readonly qkvBias: "never" | "always" | "if_present";
  readonly qkNorm: boolean;
  readonly fused: boolean;
}

const FAMILIES: Readonly<Record<string, Family>> = {
  llama: { pairing: "adjacent", qkvBias: "if_present", qkNorm: false, fused: false },
  qwen2: { pairing: "half", qkvBias: "always", qkNorm: false, fused: false },
  qwen3: { pairing: "half", qkvBias: "never", qkNorm: true, fused: false },
  phi3: { pairing: "half", qkvBias: "never", qkNorm: false, fused: true },
};

/** Keys that change what a model computes, and the values with which they do not. */
const NEUTRAL_ONLY: readonly (readonly [key: string, ...neutral: readonly unknown[]])[] = [
  ["expert_count", 0],
  ["expert_used_count", 0],
  ["expert_shared_count", 0],
  ["attn_logit_softcapping", 0],
  ["final_logit_softcapping", 0],
  ["logit_scale", 0, 1],
  ["embedding_scale", 0, 1],
  ["residual_scale", 0, 1],
  ["attention.scale", 0],
  ["attention.clamp_kqv", 0],
  ["attention.max_alibi_bias", 0],
  ["attention.causal", true],
  ["attention.temperature_length", 0],
  ["attention.temperature_scale", 0],
  ["use_parallel_residual", false],
  ["rope.scaling.yarn_ext_factor", 1],
  ["rope.scaling.yarn_log_multiplier", 0],
];

/** What the tensor table says about a configuration. */
export interface GgufTensorFacts {
  /** Rows of the embedding matrix. */
  readonly vocabSize: number | undefined;
  readonly hasOutput: boolean;
  readonly hasQkvBias: boolean;
  /** Values of `rope_freqs`, `rope_factors_short` and `rope_factors_long`. */
  readonly ropeDivisors: readonly number[] | undefined;
  readonly ropeShort: readonly number[] | undefined;
  readonly ropeLong: readonly number[] | undefined;
}

/**
 * Family of a file.
 *
 * @throws {ModelFileError} `unsupported_architecture`, or `bad_config` for one piece of a split
 * file.
 */
export function ggufFamily(path: string, metadata: GgufMetadata): Family & { name: string } {
  const name = metadata.get("general.architecture");
  const family = typeof name === "string" && Object.hasOwn(FAMILIES, name)
    ? FAMILIES[name]
    : undefined;
  if (typeof name !== "string" || !family) {
    throw new ModelFileError(
      "unsupported_architecture",
      path,
      `${path}: the architecture ${describe(name)}; supported are ` +
        `${Object.keys(FAMILIES).join(", ")} (Mistral and SmolLM2 are stored as llama)`,
    );
  }
  const pieces = metadata.get("split.count");
  if (typeof pieces === "number" && pieces > 1) {
    throw badConfig(path, `it is one of ${pieces} pieces; merge them (gguf-split --merge) first`);
  }
  return { ...family, name };
}

/**
 * Reads and checks the configuration.
 *
 * @throws {ModelFileError} `bad_config`.
 */
export function ggufConfig(
  path: string,
  metadata: GgufMetadata,
  facts: GgufTensorFacts,
  fallbackName: string,
): ConfigWithNotes {
  const family = ggufFamily(path, metadata);
  const get = (key: string) => metadata.get(`${family.name}.${key}`);
  for (const [key, ...neutral] of NEUTRAL_ONLY) {
    const value = get(key);
    if (value !== undefined && !neutral.includes(value)) {
      throw badConfig(path, `${family.name}.${key} ${describe(value)}, which is not supported`);
    }
  }
  const hiddenSize = get("embedding_length");
  const numHeads = sameInEveryLayer(path, get("attention.head_count"), "attention.head_count");
  const headDim = get("attention.key_length") ?? quotient(hiddenSize, numHeads);
  const valueLength = get("attention.value_length") ?? headDim;
  if (valueLength !== headDim) {
    throw badConfig(path, `heads have keys of ${headDim} and values of ${valueLength} dimensions`);
  }
  // The matrix is right where the two differ: tools that add tokens forget the key. Without the
  // matrix any number will do, since its absence is what will be reported.
  const vocabSize = facts.vocabSize ?? get("vocab_size") ?? 1;
  const trained = get("context_length");
  const { contextLength, notes } = cutToWindow(trained, get("attention.sliding_window"));
  const name = metadata.get("general.name");

  const config = checkConfig(path, {
    architecture: family.name,
    name: typeof name === "string" && name.trim() ? name : fallbackName,
    vocabSize,
    hiddenSize,
    intermediateSize: sameInEveryLayer(path, get("feed_forward_length"), "feed_forward_length"),
    numLayers: get("block_count"),
    numHeads,
    numKvHeads: sameInEveryLayer(
      path,
      get("attention.head_count_kv") ?? numHeads,
      "attention.head_count_kv",
    ),
    headDim,
    contextLength,
    rmsNormEps: get("attention.layer_norm_rms_epsilon"),
    ropeDimensions: get("rope.dimension_count") ?? headDim,
    ropePairing: family.pairing,
    ropeTheta: get("rope.freq_base") ?? 10_000,
    ropeScaling: readScaling(path, get, facts, trained),
    ropeDivisors: facts.ropeDivisors,
    qkvBias: family.qkvBias === "always" || (family.qkvBias === "if_present" && facts.hasQkvBias),
    qkNorm: family.qkNorm,
    tiedEmbeddings: !facts.hasOutput,
  });
  return { config, notes };
}

function readScaling(
  path: string,
  get: (key: string) => unknown,
  facts: GgufTensorFacts,
  trained: unknown,
): unknown {
  const factor = number(get("rope.scaling.factor") ?? get("rope.scale_linear"), 0);
  const original = number(get("rope.scaling.original_context_length"), number(trained, 0));
  const attention = number(get("rope.scaling.attn_factor"), 1);
  // The presence of the two factor tensors decides, not the name of the rule: old files lack it.
  if (facts.ropeShort && facts.ropeLong) {
    const stretch = number(trained, 0) / original;
    return {
      type: "longrope",
      short: facts.ropeShort,
      long: facts.ropeLong,
      originalContext: original,
      attentionFactor: get("rope.scaling.attn_factor") ??
        longropeAttentionFactor(stretch, original),
    };
  }
  const type = get("rope.scaling.type") ?? "linear";
  if (type === "none" || (type === "linear" && (factor === 0 || factor === 1))) {
    return { type: "none" };
  }
  if (type === "linear") return { type, factor };
  if (type === "yarn") {
    return {
      type,
      factor,
      originalContext: original,
      betaFast: get("rope.scaling.yarn_beta_fast") ?? 32,
      betaSlow: get("rope.scaling.yarn_beta_slow") ?? 1,
      attentionFactor: attention * number(get("rope.scaling.yarn_attn_factor"), 1) *
        yarnAttentionFactor(factor),
      truncate: true,
    };
  }
  throw badConfig(path, `the RoPE scaling ${describe(type)}, which is not supported`);
}

/** Some keys may hold one number for each layer; a model whose layers differ is not supported. */
function sameInEveryLayer(path: string, value: unknown, key: string): unknown {
  if (!Array.isArray(value)) return value;
  const [first] = value;
  if (value.some((other) => other !== first)) {
    throw badConfig(path, `${key} differs from layer to layer, which is not supported`);
  }
  return first;
}

function quotient(a: unknown, b: unknown): unknown {
  return typeof a === "number" && typeof b === "number" ? a / b : undefined;
}

function number(value: unknown, otherwise: number): number {
  return typeof value === "number" ? value : otherwise;
}
