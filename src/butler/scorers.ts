/**
 * The ways of scoring candidates, each with its kernels and what it keeps of every row: one entry
 * for each {@linkcode ScoreKind} that has scores.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel, type Kernels } from "../gpu/kernels.ts";
import {
  importanceProjectSpec,
  importanceProjectWorkgroups,
} from "../gpu/ops/importance_project.ts";
import { LIST_PARAMS, SUB_PAGE } from "../gpu/ops/list_params.ts";
import { pageBoundsSpec, scorePagesSpec, scorePagesWorkgroups } from "../gpu/ops/page_bounds.ts";
import { scoreExactSpec, scoreExactWorkgroups } from "../gpu/ops/score_exact.ts";
import { scoreProjectedSpec, scoreProjectedWorkgroups } from "../gpu/ops/score_projected.ts";
import { selectSpec } from "../gpu/ops/select.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import type { DeviceTier } from "../kv/device_tier.ts";
import type { ModelConfig } from "../model/types.ts";
import type { ImportanceStore } from "./importance_store.ts";
import type { SelectionUnit } from "./policies/types.ts";
import type { SelectionBuffers } from "./selection_buffers.ts";

/** What scorers are built from. */
export interface ScorerOptions {
  readonly kernels: Kernels;
  readonly plan: KernelPlan;
  readonly config: ModelConfig;
  readonly kvType: "f16" | "f32";
  readonly kv: DeviceTier;
  /** (rows, heads + 2 KV heads, head size) f32: q after its rotation. */
  readonly qkv: GPUBuffer;
  /** Row table of the step. */
  readonly rows: GPUBuffer;
  readonly step: BufferPart;
}

/** Row tables of one way of scoring. */
export interface ScorerTables {
  /** The rows of the step; those of sequences that score otherwise are of the trash slot. */
  readonly own: GPUBuffer;
  /** Rows whose importance is written apart from that. */
  readonly store: GPUBuffer;
}

/** The buffers of selections, for as long as they live. */
export interface ScorerBuffers {
  readonly selection: SelectionBuffers;
  readonly importance: ImportanceStore;
  /** By layer: (KV heads, head size, 16) f32; only of models that have been calibrated. */
  readonly matrices: readonly GPUBuffer[] | null;
}

/** As the count of keys that are found by page: no bound of its own. */
const ANY_COUNT = 2 ** 31;

/** Order of the recipes of a slot. */
export const SCORER_KINDS = ["projected", "exact", "pages"] as const;

/** A way of scoring. */
export type ScorerKind = typeof SCORER_KINDS[number];

/** One way of scoring, bound to buffers. */
export interface Scorer extends Disposable {
  /**
   * Writes what is kept of rows that are in the cache: those of the store's row table.
   *
   * @param stepOffset Where the step's uniform gives their number.
   */
  encodeStore(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
  ): void;
  /**
   * Scores the candidates of the step's rows whose recipes say so, and selects.
   *
   * @param end Position up to which the furthest row has candidates.
   */
  encodeSelect(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    end: number,
    stepOffset: number,
  ): void;
}

interface Kit {
  readonly options: ScorerOptions;
  readonly buffers: ScorerBuffers;
  readonly tables: ScorerTables;
  readonly params: GPUBuffer;
  readonly select: Kernel;
  readonly selectGroups: readonly GPUBindGroup[];
}

/** Positions that a unit of a list stands for. */
export function unitOf(kind: ScorerKind): SelectionUnit {
  return kind === "pages" ? SUB_PAGE : 1;
}

/** Compiles the kernels of a way of scoring and binds them. */
export async function createScorer(
  kind: ScorerKind,
  options: ScorerOptions,
  buffers: ScorerBuffers,
  tables: ScorerTables,
): Promise<Scorer> {
  const kit = await createKit(kind, options, buffers, tables);
  if (kind === "projected") return await projected(kit);
  return kind === "exact" ? await exact(kit) : await pages(kit);
}

/** Lanes of the selection of a list: it is one workgroup, so on a GPU it takes many. */
function selectLanes({ kernels, plan }: ScorerOptions): number {
  return kernels.caps.software ? plan.rowLanes : Math.min(256, kernels.caps.maxWorkgroupSize);
}

/** Runs of eight candidates that a lane scores: a workgroup is dear on a CPU. */
function turnsOf({ kernels }: ScorerOptions): number {
  return kernels.caps.software ? 16 : 1;
}

async function createKit(
  kind: ScorerKind,
  options: ScorerOptions,
  buffers: ScorerBuffers,
  tables: ScorerTables,
): Promise<Kit> {
  const { kernels, config, kv, rows, step } = options;
  const { selection, importance } = buffers;
  const unit = kind === "pages" ? "pages" : "rows";
  const select = await kernels.compile(selectSpec({ unit, lanes: selectLanes(options) }));
  const params = kernels.uniform(
    "list params",
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
      base: 0,
      count: ANY_COUNT,
      mass_stride: 0,
    }),
  );
  const kindIndex = SCORER_KINDS.indexOf(kind);
  const selectGroups = Array.from({ length: config.numLayers }, (_, layer) =>
    kernels.bind(select, [
      selection.scores,
      rows,
      selection.recipes(kindIndex, layer),
      kv.table(layer),
      selection.scratch,
      selection.picked(layer),
      selection.counts(layer),
      selection.selection(layer),
      params,
      step,
    ]));
  return { options, buffers, tables, params, select, selectGroups };
}

function encodeSelect(
  kit: Kit,
  pass: GPUComputePassEncoder,
  layer: number,
  numRows: number,
  stepOffset: number,
) {
  const { numKvHeads } = kit.options.config;
  dispatch(pass, kit.select, kit.selectGroups[layer]!, numRows * numKvHeads, stepOffset);
}

async function projected(kit: Kit): Promise<Scorer> {
  const { options, buffers, tables, params } = kit;
  const { kernels, plan, config, kvType, kv, qkv, rows, step } = options;
  const { selection, importance, matrices } = buffers;
  if (matrices === null) throw new RangeError("keys cannot be projected without a calibration");
  const group = config.numHeads / config.numKvHeads;
  const variant = { headDim: config.headDim, group, kvType, lanes: plan.rowLanes };
  const withQueries = { ...variant, queries: true };
  const keysOnly = { ...variant, queries: false };
  const score = { group, lanes: plan.rowLanes, turns: turnsOf(options) };
  const project = await kernels.compile(importanceProjectSpec(withQueries));
  const store = await kernels.compile(importanceProjectSpec(keysOnly));
  const scoring = await kernels.compile(scoreProjectedSpec(score));
  const kind = SCORER_KINDS.indexOf("projected");
  const layers = Array.from({ length: config.numLayers }, (_, layer) => {
    const common = (table: GPUBuffer) => [
      kv.keys(layer),
      kv.table(layer),
      table,
      matrices[layer]!,
      importance.pageTable,
      importance.layer(layer),
    ];
    return {
      store: kernels.bind(store, [...common(tables.store), params, step]),
      project: kernels.bind(project, [...common(tables.own), qkv, selection.queries, params, step]),
      score: kernels.bind(scoring, [
        selection.queries,
        importance.layer(layer),
        importance.pageTable,
        rows,
        selection.recipes(kind, layer),
        selection.scores,
        params,
        step,
      ]),
    };
  });
  return {
    encodeStore(pass, layer, numRows, stepOffset) {
      const count = importanceProjectWorkgroups(keysOnly, config.numKvHeads, numRows);
      dispatch(pass, store, layers[layer]!.store, count, stepOffset);
    },
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const groups = layers[layer]!;
      const count = importanceProjectWorkgroups(withQueries, config.numKvHeads, numRows);
      dispatch(pass, project, groups.project, count, stepOffset);
      const blocks = scoreProjectedWorkgroups(score, config.numKvHeads, numRows, end);
      dispatch(pass, scoring, groups.score, blocks, stepOffset);
      encodeSelect(kit, pass, layer, numRows, stepOffset);
    },
    [Symbol.dispose]: () => params.destroy(),
  };
}

async function exact(kit: Kit): Promise<Scorer> {
  const { options, buffers: { selection }, params } = kit;
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
  const layers = Array.from({ length: config.numLayers }, (_, layer) =>
    kernels.bind(scoring, [
      qkv,
      kv.keys(layer),
      kv.table(layer),
      rows,
      selection.recipes(kind, layer),
      selection.scores,
      params,
      step,
    ]));
  return {
    encodeStore: () => {},
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const blocks = scoreExactWorkgroups(variant, config.numKvHeads, numRows, end);
      dispatch(pass, scoring, layers[layer]!, blocks, stepOffset);
      encodeSelect(kit, pass, layer, numRows, stepOffset);
    },
    [Symbol.dispose]: () => params.destroy(),
  };
}

async function pages(kit: Kit): Promise<Scorer> {
  const { options, buffers: { selection, importance }, tables, params } = kit;
  const { kernels, plan, config, kvType, kv, qkv, rows, step } = options;
  const variant = { headDim: config.headDim, kvType, lanes: plan.rowLanes };
  const group = config.numHeads / config.numKvHeads;
  const scoreVariant = { ...variant, group };
  const bounds = await kernels.compile(pageBoundsSpec(variant));
  const scoring = await kernels.compile(scorePagesSpec(scoreVariant));
  const kind = SCORER_KINDS.indexOf("pages");
  const layers = Array.from({ length: config.numLayers }, (_, layer) => ({
    store: kernels.bind(bounds, [
      kv.keys(layer),
      kv.table(layer),
      tables.store,
      importance.pageTable,
      importance.layer(layer),
      params,
      step,
    ]),
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
    encodeStore(pass, layer, numRows, stepOffset) {
      dispatch(pass, bounds, layers[layer]!.store, numRows * config.numKvHeads, stepOffset);
    },
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const last = Math.ceil(end / SUB_PAGE);
      const blocks = scorePagesWorkgroups(scoreVariant, config.numKvHeads, numRows, last);
      dispatch(pass, scoring, layers[layer]!.score, blocks, stepOffset);
      encodeSelect(kit, pass, layer, numRows, stepOffset);
    },
    [Symbol.dispose]: () => params.destroy(),
  };
}
