/** What all scorers need: their numbers, and the kernels that choose from scores. @module */
import { dispatch } from "../../gpu/kernels.ts";
import { LIST_PARAMS } from "../../gpu/ops/list_params.ts";
import { neighboursSpec } from "../../gpu/ops/neighbours.ts";
import { selectSpec } from "../../gpu/ops/select.ts";
import { SCORER_KINDS, type ScorerKind } from "./kinds.ts";
import type { Scorer, ScorerBuffers, ScorerOptions, ScorerTables } from "./types.ts";

/** As the count of keys that are found by page: no bound of its own. */
const ANY_COUNT = 2 ** 31;

/** What the scorers have in common. */
export interface Kit {
  readonly options: ScorerOptions;
  readonly buffers: ScorerBuffers;
  readonly tables: ScorerTables;
  readonly params: GPUBuffer;
  /** The same for keys of so many positions from a base on. */
  readonly words: (base: number, count: number) => Uint32Array<ArrayBuffer>;
  /** Selects from scores that are there, and adds neighbours where they are wanted. */
  readonly encodeChoice: Scorer["encodeChoice"];
}

/** Lanes of the selection of a list: it is one workgroup, so on a GPU it takes many. */
function selectLanes({ kernels, plan }: ScorerOptions): number {
  return kernels.caps.software ? plan.rowLanes : Math.min(256, kernels.caps.maxWorkgroupSize);
}

/** Runs of eight candidates that a lane scores: a workgroup is dear on a CPU. */
export function turnsOf({ kernels }: ScorerOptions): number {
  return kernels.caps.software ? 16 : 1;
}

/** Compiles and binds what a scorer needs besides its own kernels. */
export async function createKit(
  kind: ScorerKind,
  options: ScorerOptions,
  buffers: ScorerBuffers,
  tables: ScorerTables,
): Promise<Kit> {
  const { kernels, config, kv, rows, step } = options;
  const { selection, importance } = buffers;
  const unit = kind === "pages" ? "pages" : "rows";
  const lanes = selectLanes(options);
  const select = await kernels.compile(selectSpec({ unit, lanes }));
  const words = (base: number, count: number) =>
    LIST_PARAMS.pack({
      num_heads: config.numHeads,
      num_kv_heads: config.numKvHeads,
      max_pages: kv.maxPages,
      importance_quads: importance.words / 4,
      recipe_stride: selection.recipeStride,
      score_stride: selection.scoreStride,
      maxima_at: selection.maximaAt,
      list_capacity: selection.sizes.listCapacity,
      selection_stride: selection.selectionStride,
      base,
      count,
      mass_stride: 0,
    });
  const params = kernels.uniform("list params", words(0, ANY_COUNT));
  const neighbours = await kernels.compile(neighboursSpec(lanes));
  const index = SCORER_KINDS.indexOf(kind);
  const groups = Array.from({ length: config.numLayers }, (_, layer) => {
    const lists = [
      rows,
      selection.recipes(index, layer),
      kv.table(layer),
      selection.scratch,
      selection.picked(layer),
      selection.counts(layer),
      selection.selection(layer),
      params,
      step,
    ];
    return {
      select: kernels.bind(select, [selection.scores, ...lists]),
      neighbours: kernels.bind(neighbours, lists),
    };
  });
  const { numKvHeads } = config;
  return {
    options,
    buffers,
    tables,
    params,
    words,
    encodeChoice(pass, layer, numRows, stepOffset) {
      const numLists = numRows * numKvHeads;
      dispatch(pass, select, groups[layer]!.select, numLists, stepOffset);
      if (!selection.wantsNeighbours) return;
      dispatch(pass, neighbours, groups[layer]!.neighbours, numLists, stepOffset);
    },
  };
}
