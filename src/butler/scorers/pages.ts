/** Scores of sub-pages by the bounds of their keys, channel by channel. @module */
import { type BufferPart, dispatch } from "../../gpu/kernels.ts";
import { SUB_PAGE } from "../../gpu/ops/list_params.ts";
import { pageBoundsSpec, scorePagesSpec, scorePagesWorkgroups } from "../../gpu/ops/page_bounds.ts";
import { SCORER_KINDS } from "./kinds.ts";
import type { Kit } from "./kit.ts";
import type { Scorer } from "./types.ts";

/** Compiles the kernels and binds them. */
export async function createPageScorer(kit: Kit): Promise<Scorer> {
  const { options, buffers: { selection, importance, transit }, tables, params } = kit;
  const { kernels, plan, config, kvType, kv, qkv, rows, step } = options;
  const variant = { headDim: config.headDim, kvType, lanes: plan.rowLanes };
  const group = config.numHeads / config.numKvHeads;
  const scoreVariant = { ...variant, group };
  const bounds = await kernels.compile(pageBoundsSpec(variant));
  const scoring = await kernels.compile(scorePagesSpec(scoreVariant));
  const kind = SCORER_KINDS.indexOf("pages");
  const bindStore = (keys: BufferPart, table: BufferPart, layer: number) =>
    kernels.bind(bounds, [
      keys,
      table,
      tables.store,
      importance.pageTable,
      importance.layer(layer),
      params,
      step,
    ]);
  const layers = Array.from({ length: config.numLayers }, (_, layer) => ({
    store: bindStore(kv.keys(layer), kv.table(layer), layer),
    storeChunk: transit && bindStore(transit.chunk.keys, transit.chunk.table, layer),
    score: kernels.bind(scoring, [
      qkv,
      importance.layer(layer),
      importance.pageTable,
      rows,
      selection.recipes(kind, layer),
      selection.scores,
      params,
      step,
    ]),
  }));
  return {
    encodeStore(pass, layer, numRows, stepOffset, from) {
      const groups = layers[layer]!;
      const group = from === "cache" ? groups.store : groups.storeChunk!;
      dispatch(pass, bounds, group, numRows * config.numKvHeads, stepOffset);
    },
    encodeChoice: kit.encodeChoice,
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const last = Math.ceil(end / SUB_PAGE);
      const blocks = scorePagesWorkgroups(scoreVariant, config.numKvHeads, numRows, last);
      dispatch(pass, scoring, layers[layer]!.score, blocks, stepOffset);
      kit.encodeChoice(pass, layer, numRows, stepOffset);
    },
    [Symbol.dispose]: () => params.destroy(),
  };
}
