/** A model whose sizes are no multiples of anything, in contexts shorter than a page. */
import { assert } from "std-testing";
import {
  llamaFolder,
  type SafetensorsEntry,
  seededRandom,
  withFiles,
  writeSafetensors,
} from "../_model_files.ts";
import { openEngine } from "./_engine.ts";
import { generate, request, run, scoreByEcho, scoreByForcing } from "./_requests.ts";

const ODD = { hidden: 40, heads: 3, kvHeads: 1, headDim: 8, ff: 44, vocab: 53, layers: 2 };
const IDS = Array.from({ length: 23 }, (_, index) => (index * 29 + 5) % ODD.vocab);

/** Folder of a Llama with random weights; its heads together are narrower than a padded row. */
function oddFolder(): Record<string, Uint8Array | string> {
  const { hidden, heads, kvHeads, headDim, ff, vocab, layers } = ODD;
  const random = seededRandom(11);
  const tensors: Record<string, SafetensorsEntry> = {};
  const add = (name: string, ...shape: number[]) => {
    const count = shape.reduce((product, n) => product * n, 1);
    const near = shape.length === 1 ? 1 : 0;
    const values = Float32Array.from({ length: count }, () => near + random() - 0.5);
    tensors[name] = { dtype: "F32", shape, data: new Uint8Array(values.buffer) };
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
  const config = {
    ...llamaFolder().config,
    vocab_size: vocab,
    hidden_size: hidden,
    intermediate_size: ff,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
  };
  return {
    "config.json": JSON.stringify(config),
    "model.safetensors": writeSafetensors(tensors),
  };
}

Deno.test("engine gives odd sizes the same numbers however the tokens go in", async () => {
  await withFiles(oddFolder(), async (folder) => {
    const scores: number[][] = [];
    for (const prefillChunk of [1, 5, 64]) {
      await using opened = await openEngine(folder, { contextLength: 32, prefillChunk });
      scores.push(await scoreByEcho(opened.engine, IDS));
      scores.push(await scoreByForcing(opened.engine, IDS, 1));
    }
    const [one = []] = scores;
    assert.equal(one.length, IDS.length - 1);
    assert.ok(one.every((value) => value > 0 && value < 100));
    for (const other of scores) {
      other.forEach((value, index) => assert.ok(Math.abs(value - one[index]!) < 1e-4));
    }
  });
});

Deno.test("engine fills contexts that are shorter than a page, down to one token", async () => {
  await withFiles(oddFolder(), async (folder) => {
    for (const contextLength of [1, 2, 5]) {
      await using opened = await openEngine(folder, { contextLength });
      const { engine } = opened;
      assert.equal(engine.info.contextLength, contextLength);
      for (let length = 1; length <= contextLength; length++) {
        const room = contextLength - length;
        const { ids, reason } = await generate(engine, IDS.slice(0, length), room);
        assert.equal(ids.length, room);
        assert.equal(reason, "length");
      }
      const beyond = await run(engine, request(IDS.slice(0, contextLength), 1));
      assert.equal(beyond.error?.code, "invalid_request");
    }
  });
});
