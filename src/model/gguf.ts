/** Models in GGUF files. @module */

import { ModelFileError } from "./errors.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { ggufConfig, ggufFamily } from "./gguf_config.ts";
import { type GgufMetadata, readGgufHeader } from "./gguf_header.ts";
import { placeGgufTensors } from "./gguf_tensors.ts";
import { ModelFile } from "./model_file.ts";
import { dequantizeRow } from "./quants.ts";
import { modelSource, validIds } from "./source.ts";
import { resolveTensors, type StoredTensor, type TensorNaming } from "./tensors.ts";
import type { ModelSource, TokenizerSource } from "./types.ts";

/** Keys of the tokens after which nothing follows: of a text, a turn, a message. */
const END_KEYS = ["eos", "eot", "eom"].map((name) => `tokenizer.ggml.${name}_token_id`);

const ROPE_TENSORS = {
  divisors: "rope_freqs.weight",
  short: "rope_factors_short.weight",
  long: "rope_factors_long.weight",
} as const;

/** Rotation tables that old converters stored; they follow from the configuration. */
const STORED_ANGLES = /^blk\.\d+\.(?:attn_rot_embd|rope_freqs)\.weight$/;

/**
 * Opens a GGUF file: checks all of it but the weights themselves.
 *
 * @throws {ModelFileError} If anything in it is wrong or not supported.
 */
export function openGguf(path: string): ModelSource {
  const file = ModelFile.open(path);
  try {
    const header = readGgufHeader(file);
    const { metadata } = header;
    const family = ggufFamily(path, metadata);
    const stored = placeGgufTensors(file, header);
    const ropeNames: readonly string[] = Object.values(ROPE_TENSORS);
    const { config, notes } = ggufConfig(path, metadata, {
      vocabSize: stored.get("token_embd.weight")?.shape.at(-2),
      hasOutput: stored.has("output.weight"),
      hasQkvBias: stored.has("blk.0.attn_q.bias"),
      ropeDivisors: readFactors(path, stored.get(ROPE_TENSORS.divisors)),
      ropeShort: readFactors(path, stored.get(ROPE_TENSORS.short)),
      ropeLong: readFactors(path, stored.get(ROPE_TENSORS.long)),
    }, fileStem(path));
    const naming: TensorNaming = {
      fileName: (name) => name.endsWith(".bias") ? name : `${name}.weight`,
      fused: family.fused ? { qkv: "attn_qkv", gateUp: "ffn_up" } : undefined,
      ignores: (name) => ropeNames.includes(name) || STORED_ANGLES.test(name),
    };
    const tensors = resolveTensors(path, config, stored, naming);
    return modelSource({
      path,
      config,
      tensors,
      tokenizer: readTokenizer(path, metadata, config.vocabSize),
      endIds: validIds(END_KEYS.map((key) => metadata.get(key)), config.vocabSize),
      notes,
      fingerprint: () => fingerprintOf(config, tensors),
      close: () => file.close(),
    });
  } catch (error) {
    file.close();
    throw error;
  }
}

function readTokenizer(
  path: string,
  metadata: GgufMetadata,
  vocabSize: number,
): TokenizerSource | undefined {
  const model = metadata.get("tokenizer.ggml.model");
  if (model === undefined || model === "none" || model === "no_vocab") return undefined;
  // Counted before anything is read, so that a list that is too long costs nothing.
  const numTokens = metadata.numStrings("tokenizer.ggml.tokens");
  if (numTokens === undefined) {
    throw new ModelFileError(
      "malformed",
      path,
      `${path}: tokenizer.ggml.tokens is missing or no list of strings; convert the model again`,
    );
  }
  if (numTokens > vocabSize) {
    throw new ModelFileError(
      "shape_mismatch",
      path,
      `${path}: the tokenizer has ${numTokens} tokens, the model only ${vocabSize}`,
    );
  }
  return { kind: "gguf", metadata: metadata.pick("tokenizer.", "general.") };
}

/** Values of a short F32 vector. */
function readFactors(path: string, tensor: StoredTensor | undefined): number[] | undefined {
  if (!tensor) return undefined;
  if (tensor.type !== "F32" || tensor.byteLength > 16384) {
    throw new ModelFileError(
      "shape_mismatch",
      path,
      `${path}: tensor ${tensor.name} is ${tensor.typeName} [${tensor.shape}], not a short F32 ` +
        "vector",
    );
  }
  const bytes = new Uint8Array(tensor.byteLength);
  tensor.file.readFully(bytes, tensor.position);
  const values = new Float32Array(bytes.length / 4);
  dequantizeRow("F32", bytes, values);
  return [...values];
}

function fileStem(path: string): string {
  return path.replace(/^.*[/\\]/, "").replace(/\.gguf$/i, "");
}
