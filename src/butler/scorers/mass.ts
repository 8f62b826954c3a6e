/**
 * Scores of rows by the attention that they have received, and the accumulation of that attention:
 * of the prompt's queries chunk by chunk, of the decoded ones step by step.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel } from "../../gpu/kernels.ts";
import {
  attentionMassSpec,
  type AttentionMassVariant,
  attentionMassWorkgroups,
  scoreListsSpec,
  scoreListsWorkgroups,
} from "../../gpu/ops/attention_mass.ts";
import { lseInQkv } from "../../gpu/ops/attention.ts";
import {
  listMassSpec,
  type ListMassVariant,
  listMassWorkgroups,
  MASS_PARAMS,
} from "../../gpu/ops/list_mass.ts";
import { ROW_KEEPS } from "../../gpu/ops/list_params.ts";
import { massEvictSpec, massEvictWorkgroups } from "../../gpu/ops/mass_evict.ts";
import { BLOCK_ROWS } from "../../kv/slab_pool.ts";
import { SCORER_KINDS } from "./kinds.ts";
import type { Kit } from "./kit.ts";
import type { Scorer, ScorerOptions } from "./types.ts";

/** Query heads that share a key which is loaded, at most; more take too many registers. */
const MOST_QUERIES = 8;

/** Quads of queries of a lane of its own, up to which a software adapter compiles in reasonable time. */
const MOST_LANE_QUADS = 96;

/** Candidates of a lane: on a CPU a workgroup is dear. */
const SOFTWARE_TURNS = 32;

/** How what decoded rows attend to is added up, whatever place the keys are in. */
export function attendedForm(
  { kernels, config, kvType, plan }: Pick<ScorerOptions, "kernels" | "config" | "kvType" | "plan">,
  massWords: number,
): Omit<ListMassVariant, "keeps"> {
  const { headDim, numHeads, numKvHeads } = config;
  const group = numHeads / numKvHeads;
  const tiled = kernels.caps.software && group * headDim / 4 > MOST_LANE_QUADS;
  return {
    headDim,
    group,
    kvType,
    pageSize: BLOCK_ROWS,
    lanes: plan.attentionLanes,
    form: tiled ? "tiled" : plan.attentionForm,
    massWords,
  };
}

/**
 * A scorer whose scores are the sums themselves (`mass`), and which never picks a row again that it
 * did not pick once; or their average over five neighbours (`pooled`), from the prompt's end alone.
 *
 * @param kit Bound to buffers.
 */
export async function createMassScorer(
  kit: Kit,
  kind: "mass" | "pooled",
): Promise<Scorer> {
  const { options, buffers: { selection, importance, lse, transit }, tables, params } = kit;
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
  const form = attendedForm(options, importance.words);
  const attended = { ...form, keeps: ROW_KEEPS.mass };
  const observe = await kernels.compile(attentionMassSpec(observing));
  const score = await kernels.compile(scoreListsSpec(scoring));
  const accumulates = kind === "mass";
  const evict = accumulates ? await kernels.compile(massEvictSpec(evicting)) : null;
  const add = accumulates ? await kernels.compile(listMassSpec(attended)) : null;
  const listed = { ...form, keeps: ROW_KEEPS.listedMass };
  const below = transit !== null;
  const addListed = accumulates && below ? await kernels.compile(listMassSpec(listed)) : null;
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
  // Keys that are in no slab, or in one but for the chunk's own, have bounds of their own.
  const uniforms = {
    chunk: kernels.uniform("mass of chunk params", kit.words(0, 0)),
    stage: kernels.uniform("mass of stage params", kit.words(0, 0)),
    slab: kernels.uniform("mass of slab params", kit.words(0, 0)),
  };
  const layers = Array.from({ length: config.numLayers }, (_, layer) => {
    const mass = importance.layer(layer);
    const recipes = selection.recipes(index, layer);
    const table = importance.pageTable;
    const observed = (keys: BufferPart, pages: BufferPart, uniform: GPUBuffer) =>
      kernels.bind(observe, [qkv, keys, tables.store, lse, mass, pages, table, uniform, step]);
    const slab = { keys: kv.keys(layer), table: kv.table(layer) };
    const added = (kernel: Kernel, positions: BufferPart) =>
      kernels.bind(kernel, [
        qkv,
        slab.keys,
        slab.table,
        tables.own,
        selection.selection(layer),
        positions,
        table,
        mass,
        massParams,
        step,
      ]);
    return {
      observe: observed(slab.keys, slab.table, params),
      observeKeys: transit && {
        chunk: observed(transit.chunk.keys, transit.chunk.table, uniforms.chunk),
        stage: observed(transit.stage.keys, transit.stage.table, uniforms.stage),
        slab: observed(slab.keys, slab.table, uniforms.slab),
      },
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
      add: add && added(add, selection.picked(layer)),
      addListed: addListed && added(addListed, selection.listed(layer)),
    };
  });
  return {
    encodeStore: () => {},
    encodeChoice: kit.encodeChoice,
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const groups = layers[layer]!;
      const blocks = scoreListsWorkgroups(scoring, numKvHeads, numRows, end);
      dispatch(pass, score, groups.score, blocks, stepOffset);
      kit.encodeChoice(pass, layer, numRows, stepOffset);
      if (evict === null) return;
      const count = massEvictWorkgroups(evicting, numKvHeads, numRows, end);
      dispatch(pass, evict, groups.evict!, count, stepOffset);
    },
    encodeObserved(pass, layer, numRows, end, stepOffset) {
      const blocks = attentionMassWorkgroups(observing, numKvHeads, numRows, end);
      dispatch(pass, observe, layers[layer]!.observe, blocks, stepOffset);
    },
    ...(transit === null ? {} : {
      observeKeys(pass, layer, numRows, { source, first, count }, stepOffset) {
        kernels.device.queue.writeBuffer(uniforms[source], 0, kit.words(first, count));
        const blocks = attentionMassWorkgroups(observing, numKvHeads, numRows, count);
        dispatch(pass, observe, layers[layer]!.observeKeys![source], blocks, stepOffset);
      },
    }),
    ...(add === null ? {} : {
      encodeAttended(pass, layer, numRows, splits, stepOffset) {
        const { add: group, addListed: below } = layers[layer]!;
        const blocks = listMassWorkgroups(numKvHeads, numRows, splits);
        dispatch(pass, add, group!, blocks, stepOffset);
        if (addListed !== null) dispatch(pass, addListed, below!, blocks, stepOffset);
      },
    }),
    [Symbol.dispose]() {
      params.destroy();
      massParams.destroy();
      for (const uniform of Object.values(uniforms)) uniform.destroy();
    },
  };
}
