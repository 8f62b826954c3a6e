/** Scores by the whole keys: what attention itself would give. @module */
import { type BufferPart, dispatch } from "../../gpu/kernels.ts";
import { scoreExactSpec, scoreExactWorkgroups } from "../../gpu/ops/score_exact.ts";
import { SCORER_KINDS } from "./kinds.ts";
import { type Kit, turnsOf } from "./kit.ts";
import type { Scorer } from "./types.ts";

/** Compiles the kernels and binds them. */
export async function createExactScorer(kit: Kit): Promise<Scorer> {
  const { options, buffers: { selection, transit }, params } = kit;
  const { kernels, plan, config, kvType, kv, qkv, rows, step } = options;
  const variant = {
    headDim: config.headDim,
    group: config.numHeads / config.numKvHeads,
    kvType,
    source: "pages" as const,
    lanes: plan.rowLanes,
    turns: turnsOf(options),
    shared: !kernels.caps.software,
  };
  const scoring = await kernels.compile(scoreExactSpec(variant));
  const kind = SCORER_KINDS.indexOf("exact");
  const bind = (keys: BufferPart, table: BufferPart, layer: number, uniform: GPUBuffer) =>
    kernels.bind(scoring, [
      qkv,
      keys,
      table,
      rows,
      selection.recipes(kind, layer),
      selection.scores,
      uniform,
      step,
    ]);
  const numbers = Array.from({ length: config.numLayers }, (_, layer) => layer);
  const layers = numbers.map((layer) => bind(kv.keys(layer), kv.table(layer), layer, params));
  const stagedParams = kernels.uniform("staged list params", kit.words(0, 0));
  const staged = transit &&
    numbers.map((layer) => bind(transit.stage.keys, transit.stage.table, layer, stagedParams));
  return {
    encodeStore: () => {},
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const blocks = scoreExactWorkgroups(variant, config.numKvHeads, numRows, end);
      dispatch(pass, scoring, layers[layer]!, blocks, stepOffset);
      kit.encodeChoice(pass, layer, numRows, stepOffset);
    },
    scoreStaged(pass, layer, numRows, first, count, stepOffset) {
      kernels.device.queue.writeBuffer(stagedParams, 0, kit.words(first, count));
      const blocks = scoreExactWorkgroups(variant, config.numKvHeads, numRows, count);
      dispatch(pass, scoring, staged![layer]!, blocks, stepOffset);
    },
    encodeChoice: kit.encodeChoice,
    [Symbol.dispose]() {
      params.destroy();
      stagedParams.destroy();
    },
  };
}
