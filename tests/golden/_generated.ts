/** A model with many layers and a long context, so narrow that long sequences are quick. @module */
import { type SafetensorsEntry, writeSafetensors } from "../_model_files.ts";
import { Random } from "../gpu/_rig.ts";

/** Its sizes. */
export const GENERATED = {
  layers: 8,
  hidden: 32,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  ff: 64,
  vocab: 64,
  context: 32_768,
} as const;

/** Bytes of keys and values of a block of 32 rows of one layer, in f32. */
export const GENERATED_PAGE = 32 * 2 * GENERATED.kvHeads * GENERATED.headDim * 4;

/**
 * Writes a Llama of {@linkcode GENERATED} sizes into a folder. Queries and keys are large enough
 * for attention to prefer some rows, so that rows which are left out or swapped show.
 *
 * @returns Its path. The caller removes it.
 */
export async function generatedModel(): Promise<string> {
  const { layers, hidden, heads, kvHeads, headDim, ff, vocab, context } = GENERATED;
  const random = new Random(16);
  const tensors: Record<string, SafetensorsEntry> = {};
  const add = (name: string, shape: number[], scale: number, mean = 0) => {
    const values = random.floats(shape.reduce((product, n) => product * n, 1), scale);
    const data = new Uint8Array(values.map((value) => value + mean).buffer);
    tensors[`model.${name}.weight`] = { dtype: "F32", shape, data };
  };
  const q = heads * headDim;
  const kv = kvHeads * headDim;
  add("embed_tokens", [vocab, hidden], 1);
  for (let layer = 0; layer < layers; layer++) {
    const at = `layers.${layer}`;
    add(`${at}.input_layernorm`, [hidden], 0.1, 1);
    add(`${at}.self_attn.q_proj`, [q, hidden], 0.35);
    add(`${at}.self_attn.k_proj`, [kv, hidden], 0.35);
    add(`${at}.self_attn.v_proj`, [kv, hidden], 0.3);
    add(`${at}.self_attn.o_proj`, [hidden, q], 0.3);
    add(`${at}.post_attention_layernorm`, [hidden], 0.1, 1);
    add(`${at}.mlp.gate_proj`, [ff, hidden], 0.2);
    add(`${at}.mlp.up_proj`, [ff, hidden], 0.2);
    add(`${at}.mlp.down_proj`, [hidden, ff], 0.15);
  }
  add("norm", [hidden], 0.1, 1);
  const config = {
    model_type: "llama",
    vocab_size: vocab,
    hidden_size: hidden,
    intermediate_size: ff,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    max_position_embeddings: context,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000,
    hidden_act: "silu",
    tie_word_embeddings: true,
  };
  const folder = await Deno.makeTempDir({ prefix: "tokenbutler_generated_" });
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
  await Deno.writeFile(`${folder}/model.safetensors`, writeSafetensors(tensors));
  return folder;
}
