/**
 * What a decoder model is made of, as data: the one configuration type, the tensor views that a
 * loader hands out, and where the text side finds its tokenizer.
 *
 * @module
 */

/** Storage formats of weights. Names as in GGUF. */
export const WEIGHT_TYPES = [
  "F32",
  "F16",
  "BF16",
  "Q8_0",
  "Q4_0",
  "Q4_1",
  "Q5_0",
  "Q5_1",
  "Q2_K",
  "Q3_K",
  "Q4_K",
  "Q5_K",
  "Q6_K",
] as const;

/** One of {@linkcode WEIGHT_TYPES}. */
export type WeightType = (typeof WEIGHT_TYPES)[number];

/** How rotary position embedding is applied. Differences between families are data, not code. */
export interface RopeConfig {
  /** Dimensions of a head that are rotated; the rest passes through. Even. */
  readonly dimensions: number;
  /**
   * Pairing of dimensions: `"half"` rotates (i, i + dimensions/2), as Hugging Face files do;
   * `"adjacent"` rotates (2i, 2i + 1), as GGUF files of the `llama` architecture do.
   */
  readonly pairing: "half" | "adjacent";
  /** Angle per position for each pair, all scaling applied. Length dimensions / 2, radians. */
  readonly inverseFrequencies: readonly number[];
  /** Factor on cos and sin (1 unless a scaling rule such as YaRN or LongRoPE asks for another). */
  readonly attentionFactor: number;
  /**
   * LongRoPE only: what takes the place of `inverseFrequencies` in an engine whose context is at
   * most this long. `ropeForContext` makes the choice.
   */
  readonly short?: {
    readonly contextLength: number;
    readonly inverseFrequencies: readonly number[];
  };
}

/** A Llama-family decoder. Everything the engine needs to know beside the tensors. */
export interface ModelConfig {
  /** `llama`, `mistral`, `qwen2`, `qwen3` or `phi3`; for display only, nothing branches on it. */
  readonly architecture: string;
  /** Name for people and the default served name. */
  readonly name: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /**
   * Tokens the model was trained for; with sliding-window attention, the tokens of one window, up
   * to which such attention is the same as full attention.
   */
  readonly contextLength: number;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  /** Bias on q, k and v (Qwen2). */
  readonly qkvBias: boolean;
  /** RMSNorm on each head of q and k before RoPE (Qwen3). */
  readonly qkNorm: boolean;
  /** The output matrix is the embedding matrix. */
  readonly tiedEmbeddings: boolean;
}

/**
 * One weight tensor of a file, under its canonical name.
 *
 * Canonical names (L = layer number): `token_embd`, `output_norm`, `output` (absent when tied),
 * `blk.L.attn_norm`, `blk.L.attn_q`, `blk.L.attn_k`, `blk.L.attn_v`, `blk.L.attn_q.bias`,
 * `blk.L.attn_k.bias`, `blk.L.attn_v.bias`, `blk.L.attn_q_norm`, `blk.L.attn_k_norm`,
 * `blk.L.attn_output`, `blk.L.ffn_norm`, `blk.L.ffn_gate`, `blk.L.ffn_up`, `blk.L.ffn_down`.
 * Fused tensors of the file (Phi-3) appear as row ranges under these names.
 */
export interface WeightTensor {
  readonly name: string;
  readonly type: WeightType;
  /** Output features; 1 for a vector. */
  readonly rows: number;
  /** Input features, the contiguous dimension. */
  readonly cols: number;
  /** rows * bytes per row. */
  readonly byteLength: number;
  /**
   * Reads file bytes of this tensor into `target`, from `offset` bytes after the tensor's start.
   *
   * @throws {ModelFileError} If the file ends early or the range lies outside the tensor.
   */
  readInto(target: Uint8Array, offset: number): Promise<void>;
}

/** Where the tokenizer of a model comes from; plain data, so that it can cross to a worker. */
export type TokenizerSource =
  | { readonly kind: "gguf"; readonly metadata: Readonly<Record<string, unknown>> }
  | {
    readonly kind: "huggingface";
    /** Parsed `tokenizer.json`. */
    readonly tokenizer: unknown;
    /** Parsed `tokenizer_config.json`, or `{}`. */
    readonly config: Readonly<Record<string, unknown>>;
    /** Parsed `generation_config.json` merged over `config.json`: only its token ids are used. */
    readonly generation: Readonly<Record<string, unknown>>;
  };

/** An opened model: configuration, tensors, text side. Close it when the tensors are uploaded. */
export interface ModelSource {
  readonly path: string;
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  /** Absent for a folder without a tokenizer: such a model serves ids only. */
  readonly tokenizer: TokenizerSource | undefined;
  /**
   * Tokens that end a text, as the settings name them, for a model without a tokenizer: a tokenizer
   * knows them better. Ids that the vocabulary does not have are left out.
   */
  readonly endIds: ReadonlySet<number>;
  /** Number of weights in all tensors. */
  readonly numParameters: number;
  /** Bytes of all tensors in the file. */
  readonly sizeBytes: number;
  /** Things a person should know: a context that was cut, a tokenizer that cannot be read. */
  readonly notes: readonly string[];
  /**
   * Identity of the weights without reading them all: sha256 (hex) over the metadata that matters,
   * the tensor table and the first bytes of each tensor. Predictors and saved KV are bound to it.
   */
  fingerprint(): Promise<string>;
  close(): void;
}
