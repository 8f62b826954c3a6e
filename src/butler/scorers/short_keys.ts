/**
 * Scores by 16 values of every row's key, which the importance store keeps: with queries that are
 * projected as keys are, in the layer itself, or with those that a predictor made in an earlier one.
 *
 * @module
 */
import { type BufferPart, dispatch } from "../../gpu/kernels.ts";
import {
  importanceProjectSpec,
  importanceProjectWorkgroups,
} from "../../gpu/ops/importance_project.ts";
import { scoreProjectedSpec, scoreProjectedWorkgroups } from "../../gpu/ops/score_projected.ts";
import { SCORER_KINDS } from "./kinds.ts";
import { type Kit, turnsOf } from "./kit.ts";
import type { Scorer, ScorerBuffers } from "./types.ts";

/** Where the values of a way of scoring come from. */
interface Source {
  /** By layer: (KV heads, head size, 16) f32. */
  readonly matrices: readonly GPUBuffer[];
  /** (rows, heads, 16) f32 of a layer. */
  readonly queriesOf: (layer: number) => BufferPart;
  /** Makes the queries of the layers that a layer's producer serves; null: each layer makes its own. */
  readonly encodeQueries: Scorer["encodeQueries"] | null;
}

/**
 * Compiles the kernels and binds them.
 *
 * @throws {RangeError} Without the matrices that it takes.
 */
export async function createShortKeyScorer(
  kit: Kit,
  kind: "projected" | "predicted",
): Promise<Scorer> {
  const { options, buffers, tables, params } = kit;
  const { kernels, plan, config, kvType, importanceKeys: keys, kv, qkv, rows, step } = options;
  const { selection, importance, transit } = buffers;
  const { numLayers, numKvHeads, headDim } = config;
  const source = kind === "projected" ? projected(buffers) : predicted(buffers);
  const group = config.numHeads / numKvHeads;
  const variant = { headDim, group, kvType, keys, lanes: plan.rowLanes };
  const withQueries = { ...variant, queries: true };
  const keysOnly = { ...variant, queries: false };
  const score = { group, keys, lanes: plan.rowLanes, turns: turnsOf(options) };
  const ownQueries = source.encodeQueries === null;
  const project = ownQueries ? await kernels.compile(importanceProjectSpec(withQueries)) : null;
  const store = await kernels.compile(importanceProjectSpec(keysOnly));
  const scoring = await kernels.compile(scoreProjectedSpec(score));
  const kindIndex = SCORER_KINDS.indexOf(kind);
  const layers = Array.from({ length: numLayers }, (_, layer) => {
    const common = (
      named: GPUBuffer,
      place: { keys: BufferPart; table: BufferPart } = {
        keys: kv.keys(layer),
        table: kv.table(layer),
      },
    ) => [
      place.keys,
      place.table,
      named,
      source.matrices[layer]!,
      importance.pageTable,
      importance.layer(layer),
    ];
    const queries = source.queriesOf(layer);
    return {
      store: kernels.bind(store, [...common(tables.store), params, step]),
      storeChunk: transit &&
        kernels.bind(store, [...common(tables.store, transit.chunk), params, step]),
      project: project &&
        kernels.bind(project, [...common(tables.own), qkv, queries, params, step]),
      score: kernels.bind(scoring, [
        queries,
        importance.layer(layer),
        importance.pageTable,
        rows,
        selection.recipes(kindIndex, layer),
        selection.scores,
        params,
        step,
      ]),
    };
  });
  return {
    encodeStore(pass, layer, numRows, stepOffset, from) {
      const count = importanceProjectWorkgroups(keysOnly, numKvHeads, numRows);
      const groups = layers[layer]!;
      const bound = from === "cache" ? groups.store : groups.storeChunk!;
      dispatch(pass, store, bound, count, stepOffset);
    },
    ...(ownQueries ? {} : { encodeQueries: source.encodeQueries! }),
    encodeChoice: kit.encodeChoice,
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const groups = layers[layer]!;
      if (project !== null) {
        const count = importanceProjectWorkgroups(withQueries, numKvHeads, numRows);
        dispatch(pass, project, groups.project!, count, stepOffset);
      }
      const blocks = scoreProjectedWorkgroups(score, numKvHeads, numRows, end);
      dispatch(pass, scoring, groups.score, blocks, stepOffset);
      kit.encodeChoice(pass, layer, numRows, stepOffset);
    },
    [Symbol.dispose]: () => params.destroy(),
  };
}

function projected({ matrices, selection }: ScorerBuffers): Source {
  if (matrices === null) throw new RangeError("keys cannot be projected without a calibration");
  return { matrices, queriesOf: () => selection.queries, encodeQueries: null };
}

function predicted({ producers }: ScorerBuffers): Source {
  if (producers === null) {
    throw new RangeError("importance cannot be predicted without a predictor");
  }
  return {
    matrices: producers.matrices,
    queriesOf: (layer) => producers.queriesOf(layer),
    encodeQueries: (...place) => producers.encode(...place),
  };
}
