/**
 * Scores of rows by the attention that they have received, and the accumulation of that attention:
 * of the prompt's queries chunk by chunk, of the decoded ones step by step.
 *
 * @module
 */
import { dispatch } from "../gpu/kernels.ts";
import {
  attentionMassSpec,
  type AttentionMassVariant,
  attentionMassWorkgroups,
  scoreListsSpec,
  scoreListsWorkgroups,
} from "../gpu/ops/attention_mass.ts";
import { lseInQkv } from "../gpu/ops/attention.ts";
import { listMassSpec, listMassWorkgroups, MASS_PARAMS } from "../gpu/ops/list_mass.ts";
import { massEvictSpec, massEvictWorkgroups } from "../gpu/ops/mass_evict.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import { SCORER_KINDS } from "./scorer_kinds.ts";
import type { Kit, Scorer } from "./scorers.ts";

/** Query heads that share a key which is loaded, at most; more take too many registers. */
const MOST_QUERIES = 8;

/** Quads of queries of a lane of its own, up to which a software adapter compiles in reasonable time. */
const MOST_LANE_QUADS = 96;

/** Candidates of a lane: on a CPU a workgroup is dear. */
const SOFTWARE_TURNS = 32;

/**
 * A scorer whose scores are the sums themselves (`mass`), and which never picks a row again that it
 * did not pick once; or their average over five neighbours (`pooled`), from the prompt's end alone.
 *
 * @param kit Bound to buffers.
 * @param choose Selects from the scores of a layer.
 */
export async function createMassScorer(
  kit: Kit,
  kind: "mass" | "pooled",
  choose: Scorer["encodeChoice"],
): Promise<Scorer> {
  const { options, buffers: { selection, importance, lse }, tables, params } = kit;
  const { kernels, plan, config, kvType, kv, qkv, rows, step } = options;
  const { headDim, numHeads, numKvHeads } = config;
  const group = numHeads / numKvHeads;
  const software = kernels.caps.software;
  const turns = software ? SOFTWARE_TURNS : 1;
  const quads = group * headDim / 4;
  const together = software ? Math.floor(MOST_LANE_QUADS / quads) : MOST_QUERIES;
  const lanes = plan.rowLanes;
  const observing: AttentionMassVariant = {
    headDim,
    group,
    kvType,
    source: "pages",
    target: "store",
    eachRow: false,
    lanes,
    turns,
    queryRows: Math.max(1, Math.min(together, Math.floor(MOST_QUERIES / group))),
    shared: !software,
  };
  const scoring = { target: "store", eachRow: false, pool: kind === "pooled", lanes } as const;
  const evicting = { lanes, turns };
  const attended = {
    headDim,
    group,
    kvType,
    pageSize: BLOCK_ROWS,
    lanes: plan.attentionLanes,
    form: software && quads > MOST_LANE_QUADS ? "tiled" as const : plan.attentionForm,
    massWords: importance.words,
  };
  const observe = await kernels.compile(attentionMassSpec(observing));
  const score = await kernels.compile(scoreListsSpec(scoring));
  const accumulates = kind === "mass";
  const evict = accumulates ? await kernels.compile(massEvictSpec(evicting)) : null;
  const add = accumulates ? await kernels.compile(listMassSpec(attended)) : null;
  const massParams = kernels.uniform(
    "mass params",
    MASS_PARAMS.pack({
      num_heads: numHeads,
      num_kv_heads: numKvHeads,
      max_pages: kv.maxPages,
      split_keys: plan.attentionSplit,
      selection_stride: selection.selectionStride,
      list_capacity: selection.sizes.listCapacity,
      lse_offset: lseInQkv({ numHeads, numKvHeads, headDim }).lseOffset,
    }),
  );
  const index = SCORER_KINDS.indexOf(kind);
  const layers = Array.from({ length: config.numLayers }, (_, layer) => {
    const mass = importance.layer(layer);
    const recipes = selection.recipes(index, layer);
    const table = importance.pageTable;
    return {
      observe: kernels.bind(observe, [
        qkv,
        kv.keys(layer),
        tables.store,
        lse,
        mass,
        kv.table(layer),
        table,
        params,
        step,
      ]),
      score: kernels.bind(score, [mass, table, rows, recipes, selection.scores, params, step]),
      evict: evict && kernels.bind(evict, [
        selection.picked(layer),
        selection.counts(layer),
        table,
        rows,
        recipes,
        mass,
        params,
        step,
      ]),
      add: add && kernels.bind(add, [
        qkv,
        kv.keys(layer),
        kv.table(layer),
        tables.own,
        selection.selection(layer),
        selection.picked(layer),
        table,
        mass,
        massParams,
        step,
      ]),
    };
  });
  return {
    encodeStore: () => {},
    encodeChoice: choose,
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const groups = layers[layer]!;
      const blocks = scoreListsWorkgroups(scoring, numKvHeads, numRows, end);
      dispatch(pass, score, groups.score, blocks, stepOffset);
      choose(pass, layer, numRows, stepOffset);
      if (evict === null) return;
      const count = massEvictWorkgroups(evicting, numKvHeads, numRows, end);
      dispatch(pass, evict, groups.evict!, count, stepOffset);
    },
    encodeObserved(pass, layer, numRows, end, stepOffset) {
      const blocks = attentionMassWorkgroups(observing, numKvHeads, numRows, end);
      dispatch(pass, observe, layers[layer]!.observe, blocks, stepOffset);
    },
    ...(add === null ? {} : {
      encodeAttended(pass, layer, numRows, splits, stepOffset) {
        const blocks = listMassWorkgroups(numKvHeads, numRows, splits);
        dispatch(pass, add, layers[layer]!.add!, blocks, stepOffset);
      },
    }),
    [Symbol.dispose]() {
      params.destroy();
      massParams.destroy();
    },
  };
}
