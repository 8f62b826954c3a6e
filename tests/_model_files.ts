/**
 * Writers of small model files, valid or broken on purpose. A written GGUF file comes with the
 * places of its counts, lengths and offsets, so that tests can make each of them lie.
 *
 * @module
 */

/** A typed metadata value. */
export type GgufValue =
  | { readonly type: "u32" | "i32" | "f32" | "u8"; readonly value: number }
  | { readonly type: "u64"; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "array"; readonly of: number; readonly items: readonly GgufValue[] };

/** A tensor to be written; without `data` it is filled with a pattern. */
export interface GgufTensor {
  readonly name: string;
  /** Contiguous dimension first. */
  readonly dims: readonly (number | bigint)[];
  /** GGML's code. */
  readonly type: number;
  readonly byteLength: number;
  readonly data?: Uint8Array;
  /** Where the table says that it lies, instead of where it does. */
  readonly claimedOffset?: bigint;
}

/** What {@linkcode writeGguf} makes. */
export interface WrittenGguf {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Places of 64-bit counts, lengths, dimensions and offsets. */
  readonly longFields: readonly number[];
  /** Places of 32-bit type codes and numbers of dimensions. */
  readonly shortFields: readonly number[];
  /** Ends of header, metadata entries, tensor table entries, and data. */
  readonly sections: readonly number[];
}

const VALUE_CODES = { u8: 0, u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10 };

/** Number as metadata. */
export const u32 = (value: number): GgufValue => ({ type: "u32", value });
/** Fraction as metadata. */
export const f32 = (value: number): GgufValue => ({ type: "f32", value });
/** Text as metadata. */
export const text = (value: string): GgufValue => ({ type: "string", value });
/** List of texts as metadata. */
export const texts = (values: readonly string[]): GgufValue => ({
  type: "array",
  of: VALUE_CODES.string,
  items: values.map(text),
});

/** Lays out a GGUF file. */
export function writeGguf(
  metadata: readonly (readonly [string, GgufValue])[],
  tensors: readonly GgufTensor[],
  { version = 3, alignment = 32 } = {},
): WrittenGguf {
  const out = new ByteWriter();
  const longFields: number[] = [];
  const shortFields: number[] = [];
  const sections: number[] = [];
  const long = (value: bigint | number) => {
    longFields.push(out.length);
    out.u64(BigInt(value));
  };
  const short = (value: number) => {
    shortFields.push(out.length);
    out.u32(value);
  };
  const string = (value: string) => {
    const bytes = new TextEncoder().encode(value);
    long(bytes.length);
    out.bytes(bytes);
  };
  const value = (v: GgufValue) => {
    switch (v.type) {
      case "u8":
        return out.bytes(Uint8Array.of(v.value));
      case "bool":
        return out.bytes(Uint8Array.of(Number(v.value)));
      case "u32":
      case "i32":
        return out.u32(v.value);
      case "f32":
        return out.f32(v.value);
      case "u64":
        return out.u64(v.value);
      case "string":
        return string(v.value);
      case "array":
        short(v.of);
        long(v.items.length);
        return v.items.forEach(value);
    }
  };

  out.bytes(new TextEncoder().encode("GGUF"));
  short(version);
  long(tensors.length);
  long(metadata.length);
  sections.push(out.length);
  for (const [key, v] of metadata) {
    string(key);
    short(VALUE_CODES[v.type]);
    value(v);
    sections.push(out.length);
  }
  let offset = 0;
  const offsets: number[] = [];
  for (const tensor of tensors) {
    string(tensor.name);
    short(tensor.dims.length);
    tensor.dims.forEach(long);
    short(tensor.type);
    long(tensor.claimedOffset ?? offset);
    offsets.push(offset);
    offset = Math.ceil((offset + tensor.byteLength) / alignment) * alignment;
    sections.push(out.length);
  }
  const dataStart = Math.ceil(out.length / alignment) * alignment;
  tensors.forEach((tensor, i) => {
    out.padTo(dataStart + offsets[i]!);
    out.bytes(tensor.data ?? pattern(tensor.byteLength));
  });
  sections.push(dataStart, out.length);
  return { bytes: out.take(), longFields, shortFields, sections };
}

/** Sizes of the models that {@linkcode llamaParts} and {@linkcode llamaFolder} describe. */
export const TINY = { hidden: 32, heads: 2, kvHeads: 1, headDim: 16, ff: 64, vocab: 12, layers: 1 };

/** Metadata and F32 tensors of the smallest sensible model of an architecture in GGUF. */
export function ggufParts(arch: "llama" | "qwen2" | "qwen3" | "phi3" = "llama"): {
  metadata: [string, GgufValue][];
  tensors: GgufTensor[];
} {
  const { hidden, heads, kvHeads, headDim, ff, vocab, layers } = TINY;
  const metadata: [string, GgufValue][] = [
    ["general.architecture", text(arch)],
    ["general.name", text("tiny")],
    [`${arch}.context_length`, u32(64)],
    [`${arch}.embedding_length`, u32(hidden)],
    [`${arch}.block_count`, u32(layers)],
    [`${arch}.feed_forward_length`, u32(ff)],
    [`${arch}.attention.head_count`, u32(heads)],
    [`${arch}.attention.head_count_kv`, u32(kvHeads)],
    [`${arch}.attention.layer_norm_rms_epsilon`, f32(1e-5)],
    [`${arch}.rope.freq_base`, f32(10000)],
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.tokens", texts([..."abcdefghijk", "\u0120t"])],
  ];
  const q = heads * headDim;
  const kv = kvHeads * headDim;
  const tensors: GgufTensor[] = [f32Tensor("token_embd.weight", [hidden, vocab])];
  for (let l = 0; l < layers; l++) {
    const add = (name: string, ...dims: number[]) =>
      tensors.push(f32Tensor(`blk.${l}.${name}`, dims));
    add("attn_norm.weight", hidden);
    if (arch === "phi3") {
      add("attn_qkv.weight", hidden, q + 2 * kv);
    } else {
      add("attn_q.weight", hidden, q);
      add("attn_k.weight", hidden, kv);
      add("attn_v.weight", hidden, kv);
    }
    if (arch === "qwen2") {
      add("attn_q.bias", q);
      add("attn_k.bias", kv);
      add("attn_v.bias", kv);
    }
    if (arch === "qwen3") {
      add("attn_q_norm.weight", headDim);
      add("attn_k_norm.weight", headDim);
    }
    add("attn_output.weight", q, hidden);
    add("ffn_norm.weight", hidden);
    if (arch !== "phi3") add("ffn_gate.weight", hidden, ff);
    add("ffn_up.weight", hidden, arch === "phi3" ? 2 * ff : ff);
    add("ffn_down.weight", ff, hidden);
  }
  tensors.push(f32Tensor("output_norm.weight", [hidden]));
  return { metadata, tensors };
}

/** An F32 tensor for {@linkcode writeGguf}. */
export function f32Tensor(name: string, dims: readonly number[], values?: number[]): GgufTensor {
  const byteLength = 4 * dims.reduce((product, n) => product * n, 1);
  const base = { name, dims, type: 0, byteLength };
  return values ? { ...base, data: new Uint8Array(Float32Array.from(values).buffer) } : base;
}

/** A line of a safetensors header with its data; `offsets` overrides where it says they are. */
export interface SafetensorsEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
  readonly offsets?: readonly [number, number];
}

/** Lays out a safetensors file. */
export function writeSafetensors(
  entries: Readonly<Record<string, SafetensorsEntry>>,
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const [name, { dtype, shape, data, offsets }] of Object.entries(entries)) {
    header[name] = { dtype, shape, data_offsets: offsets ?? [at, at + data.length] };
    at += data.length;
  }
  const json = JSON.stringify(header);
  return rawSafetensors(json, ...Object.values(entries).map(({ data }) => data));
}

/** A safetensors file with any header text; `claimed` is what its length says. */
export function rawSafetensors(
  header: string | { readonly json: string; readonly claimed: bigint },
  ...data: Uint8Array[]
): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(typeof header === "string" ? header : header.json);
  const out = new ByteWriter();
  out.u64(typeof header === "string" ? BigInt(json.length) : header.claimed);
  out.bytes(json);
  for (const piece of data) out.bytes(piece);
  return out.take();
}

/** `config.json` and tensors of the smallest sensible Llama in a Hugging Face folder. */
export function llamaFolder(): {
  config: Record<string, unknown>;
  tensors: Record<string, SafetensorsEntry>;
} {
  const { hidden, heads, kvHeads, headDim, ff, vocab, layers } = TINY;
  const config = {
    model_type: "llama",
    vocab_size: vocab,
    hidden_size: hidden,
    intermediate_size: ff,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: "silu",
    tie_word_embeddings: true,
    eos_token_id: 2,
  };
  const tensors: Record<string, SafetensorsEntry> = {};
  const add = (name: string, ...shape: number[]) => {
    const count = shape.reduce((product, n) => product * n, 1);
    tensors[name] = { dtype: "F32", shape, data: pattern(4 * count) };
  };
  add("model.embed_tokens.weight", vocab, hidden);
  for (let l = 0; l < layers; l++) {
    const layer = `model.layers.${l}.`;
    add(`${layer}input_layernorm.weight`, hidden);
    add(`${layer}self_attn.q_proj.weight`, heads * headDim, hidden);
    add(`${layer}self_attn.k_proj.weight`, kvHeads * headDim, hidden);
    add(`${layer}self_attn.v_proj.weight`, kvHeads * headDim, hidden);
    add(`${layer}self_attn.o_proj.weight`, hidden, heads * headDim);
    add(`${layer}post_attention_layernorm.weight`, hidden);
    add(`${layer}mlp.gate_proj.weight`, ff, hidden);
    add(`${layer}mlp.up_proj.weight`, ff, hidden);
    add(`${layer}mlp.down_proj.weight`, hidden, ff);
  }
  add("model.norm.weight", hidden);
  return { config, tensors };
}

/** Runs `use` with a fresh folder that holds these files. */
export async function withFiles<T>(
  files: Readonly<Record<string, Uint8Array | string>>,
  use: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "tokenbutler_model_" });
  try {
    for (const [name, content] of Object.entries(files)) {
      if (typeof content === "string") await Deno.writeTextFile(`${folder}/${name}`, content);
      else await Deno.writeFile(`${folder}/${name}`, content);
    }
    return await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Repeatable numbers in 0 to 1 (xorshift). */
export function seededRandom(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 0x1_0000_0000;
  };
}

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + 7) & 0x3f);
}

class ByteWriter {
  #bytes = new Uint8Array(4096);
  length = 0;

  bytes(bytes: Uint8Array): void {
    this.#grow(this.length + bytes.length);
    this.#bytes.set(bytes, this.length);
    this.length += bytes.length;
  }
  u32(value: number): void {
    this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }
  f32(value: number): void {
    this.bytes(new Uint8Array(Float32Array.of(value).buffer));
  }
  u64(value: bigint): void {
    this.bytes(new Uint8Array(BigUint64Array.of(value).buffer));
  }
  padTo(length: number): void {
    this.#grow(length);
    this.length = Math.max(this.length, length);
  }
  take(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.length);
  }
  #grow(length: number): void {
    if (length <= this.#bytes.length) return;
    const larger = new Uint8Array(2 * length);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}
