/** RoPE as a Hugging Face `config.json` describes it. @module */

import { badConfig, describe } from "./config_check.ts";
import { isJsonObject, type JsonObject } from "./json_file.ts";
import { longropeAttentionFactor, yarnAttentionFactor } from "./rope.ts";

/** What was found, not yet checked. */
export interface FoundRope {
  readonly dimensions: unknown;
  readonly theta: unknown;
  readonly scaling: unknown;
  /** Trained length. */
  readonly contextLength: unknown;
}

/**
 * Reads `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both in newer files.
 *
 * @throws {ModelFileError} `bad_config` for a rule that is not supported.
 */
export function huggingFaceScaling(path: string, json: JsonObject, headDim: unknown): FoundRope {
  const found = json["rope_parameters"] ?? json["rope_scaling"] ?? {};
  if (!isJsonObject(found)) throw badConfig(path, `rope_scaling ${describe(found)}`);
  const rope: JsonObject = found;
  const nested = Object.values(rope).some(isJsonObject);
  if (nested) throw badConfig(path, "RoPE differs from layer to layer, which is not supported");

  const trained = json["max_position_embeddings"];
  const share = rope["partial_rotary_factor"] ?? json["partial_rotary_factor"] ?? 1;
  const dimensions = typeof headDim === "number" && typeof share === "number"
    ? Math.floor(headDim * share)
    : share;
  const theta = rope["rope_theta"] ?? json["rope_theta"] ?? 10_000;
  const original = rope["original_max_position_embeddings"] ??
    json["original_max_position_embeddings"];
  const base = { dimensions, theta, contextLength: trained };
  const type = rope["rope_type"] ?? rope["type"] ?? "default";
  switch (type) {
    case "default":
      // A file of a model with long and short factors and no rule would be read wrongly.
      if (rope["factor"] !== undefined || rope["short_factor"] !== undefined) {
        throw badConfig(path, "RoPE has factors and no rule (rope_type) for them");
      }
      return { ...base, scaling: { type: "none" } };
    case "linear":
      return { ...base, scaling: { type, factor: rope["factor"] } };
    case "llama3":
      return {
        ...base,
        scaling: {
          type,
          factor: rope["factor"],
          lowFreqFactor: rope["low_freq_factor"],
          highFreqFactor: rope["high_freq_factor"],
          originalContext: original,
        },
      };
    case "yarn":
      return yarn(path, rope, base, original ?? trained);
    case "su":
    case "longrope": {
      const originalContext = original ?? trained;
      const stretch = (original === undefined ? rope["factor"] : undefined) ??
        ratio(trained, originalContext);
      return {
        ...base,
        scaling: {
          type: "longrope",
          short: rope["short_factor"],
          long: rope["long_factor"],
          originalContext,
          attentionFactor: rope["attention_factor"] ??
            longropeAttentionFactor(number(stretch, 1), number(originalContext, 1)),
        },
      };
    }
    default:
      throw badConfig(
        path,
        `the RoPE scaling ${describe(type)}; supported are default, linear, llama3, yarn, longrope`,
      );
  }
}

function yarn(path: string, rope: JsonObject, base: Omit<FoundRope, "scaling">, original: unknown) {
  if (rope["short_factor"] !== undefined) {
    throw badConfig(path, "RoPE has long and short factors under the rule yarn");
  }
  const factor = rope["factor"] ?? ratio(base.contextLength, original);
  const { mscale, mscale_all_dim: mscaleAll } = rope;
  const stretch = number(factor, 1);
  const attentionFactor = rope["attention_factor"] ??
    (mscale && mscaleAll
      ? yarnAttentionFactor(stretch, number(mscale, 1)) /
        yarnAttentionFactor(stretch, number(mscaleAll, 1))
      : yarnAttentionFactor(stretch));
  // Users switch YaRN on by adding the rule and leaving the trained length as it was.
  const contextLength = typeof original === "number" && typeof base.contextLength === "number"
    ? Math.max(base.contextLength, Math.floor(stretch * original))
    : base.contextLength;
  return {
    ...base,
    contextLength,
    scaling: {
      type: "yarn",
      factor,
      originalContext: original,
      betaFast: rope["beta_fast"] ?? 32,
      betaSlow: rope["beta_slow"] ?? 1,
      attentionFactor,
      truncate: rope["truncate"] ?? true,
    },
  };
}

function ratio(a: unknown, b: unknown): unknown {
  return typeof a === "number" && typeof b === "number" ? a / b : undefined;
}

function number(value: unknown, otherwise: number): number {
  return typeof value === "number" ? value : otherwise;
}
