/** Small GGUF files that are good before they are spoiled: both tokenizers, several weight types. @module */
import { BYTE_CHARS } from "../../src/tokenizer/byte_level.ts";
import {
  f32,
  ggufParts,
  type GgufTensor,
  type GgufValue,
  text,
  texts,
  TINY,
  u32,
  writeGguf,
} from "../_model_files.ts";

/** A file, and where its tensors' data begins. */
export interface GoodGguf {
  readonly bytes: Uint8Array;
  readonly head: number;
}

/** Codes of GGUF and bytes of 32 weights. */
const TYPES = { q4_0: [2, 18], q8_0: [8, 34], f16: [1, 64] } as const;
const NORMAL = 1;
const CONTROL = 3;
const BYTE = 6;
const I32 = 5;
const F32 = 6;

function typed(name: string, dims: readonly number[], type: keyof typeof TYPES): GgufTensor {
  const [code, bytes] = TYPES[type];
  const count = dims.reduce((product, n) => product * n, 1);
  return { name, dims, type: code, byteLength: count / 32 * bytes };
}

const types = (values: readonly number[]): GgufValue => ({
  type: "array",
  of: I32,
  items: values.map((value) => ({ type: "i32", value })),
});

function bytePairs(): [string, GgufValue][] {
  const tokens = [...BYTE_CHARS, "\u0120t", "he", "\u0120the", "<|x|>", "<|end|>"];
  return [
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.pre", text("llama-bpe")],
    ["tokenizer.ggml.tokens", texts(tokens)],
    [
      "tokenizer.ggml.token_type",
      types(tokens.map((token) => token.startsWith("<|") ? CONTROL : NORMAL)),
    ],
    ["tokenizer.ggml.merges", texts(["\u0120 t", "h e", "\u0120t he"])],
    ["tokenizer.ggml.bos_token_id", u32(tokens.length - 2)],
    ["tokenizer.ggml.eos_token_id", u32(tokens.length - 1)],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
  ];
}

function sentencePieces(): [string, GgufValue][] {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const words = ["\u2581", "t", "h", "e", "he", "\u2581t", "\u2581the"];
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...words];
  return [
    ["tokenizer.ggml.model", text("llama")],
    ["tokenizer.ggml.tokens", texts(tokens)],
    ["tokenizer.ggml.scores", {
      type: "array",
      of: F32,
      items: tokens.map((_, id) => f32(-id)),
    }],
    [
      "tokenizer.ggml.token_type",
      types(tokens.map((_, id) => id < 3 ? CONTROL : id < 259 ? BYTE : NORMAL)),
    ],
    ["tokenizer.ggml.bos_token_id", u32(1)],
    ["tokenizer.ggml.eos_token_id", u32(2)],
    ["tokenizer.ggml.unknown_token_id", u32(0)],
  ];
}

/** One of each kind of tokenizer. */
export function goodGgufs(): GoodGguf[] {
  return [bytePairs(), sentencePieces()].map((tokenizer) => {
    const { metadata, tensors } = ggufParts();
    const list = tokenizer.find(([key]) => key === "tokenizer.ggml.tokens")![1];
    const numTokens = list.type === "array" ? list.items.length : 0;
    const replaced = new Map<string, GgufTensor>([
      typed("token_embd.weight", [TINY.hidden, numTokens], "q8_0"),
      typed("blk.0.ffn_up.weight", [TINY.hidden, TINY.ff], "q4_0"),
      typed("blk.0.ffn_gate.weight", [TINY.hidden, TINY.ff], "f16"),
    ].map((tensor) => [tensor.name, tensor]));
    const kept = metadata.filter(([key]) => !key.startsWith("tokenizer."));
    const { bytes, sections } = writeGguf(
      [...kept, ...tokenizer],
      tensors.map((tensor) => replaced.get(tensor.name) ?? tensor),
    );
    return { bytes, head: sections.at(-2)! };
  });
}
