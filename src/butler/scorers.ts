/**
 * The ways of scoring candidates, each with its kernels and what it keeps of every row: one entry
 * for each {@linkcode ScoreKind} that has scores.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel, type Kernels } from "../gpu/kernels.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import { LIST_PARAMS, SUB_PAGE } from "../gpu/ops/list_params.ts";
import { pageBoundsSpec, scorePagesSpec, scorePagesWorkgroups } from "../gpu/ops/page_bounds.ts";
import { scoreExactSpec, scoreExactWorkgroups } from "../gpu/ops/score_exact.ts";
import { neighboursSpec } from "../gpu/ops/neighbours.ts";
import { selectSpec } from "../gpu/ops/select.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import type { DeviceTier } from "../kv/device_tier.ts";
import type { ModelConfig, RopeConfig } from "../model/types.ts";
import type { ImportanceStore } from "./importance_store.ts";
import { createMassScorer } from "./mass_scorer.ts";
import type { Producers } from "./producers.ts";
import type { SelectionUnit } from "./policies/types.ts";
import { SCORER_KINDS, type ScorerKind } from "./scorer_kinds.ts";
import type { SelectionBuffers } from "./selection_buffers.ts";
import { createShortKeyScorer } from "./short_key_scorers.ts";

/** What scorers are built from. */
export interface ScorerOptions {
  readonly kernels: Kernels;
  readonly plan: KernelPlan;
  readonly config: ModelConfig;
  readonly kvType: "f16" | "f32";
  /** Form of projected keys. */
  readonly importanceKeys: ImportanceKeys;
  readonly kv: DeviceTier;
  /** (rows, heads + 2 KV heads, head size) f32: q after its rotation. */
  readonly qkv: GPUBuffer;
  /** (rows, padded hidden size) f32: the residual stream. */
  readonly x: GPUBuffer;
  /** Row table of the step. */
  readonly rows: GPUBuffer;
  /** (rows, rotary / 2) cos, sin of the rows' positions, and the RoPE that they are of. */
  readonly angles: GPUBuffer;
  readonly rope: RopeConfig;
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
  /** Makes the queries of predicted importance; only with a predictor. */
  readonly producers: Producers | null;
  /** Where the keys of sequences below the device pass through; null while there are none. */
  readonly transit: KeyTransit | null;
  /** (rows of a prefill chunk, heads) f32: logarithm of the sum of a row's weights. */
  readonly lse: GPUBuffer;
}

/** Places of keys that are not in the slabs. */
export interface KeyTransit {
  /** Keys of a prefill chunk, and a page table that finds them by slot and position. */
  readonly chunk: { readonly keys: GPUBuffer; readonly table: GPUBuffer };
  /** Keys of blocks on the stage, and a page table that finds them so. */
  readonly stage: { readonly keys: BufferPart; readonly table: GPUBuffer };
}

/** Keys that a prefill chunk attends to: its own, those on the stage, or those with pages. */
export interface ObservedKeys {
  readonly source: "chunk" | "stage" | "slab";
  /** Position of the first one; `count` of them. */
  readonly first: number;
  readonly count: number;
}

/** As the count of keys that are found by page: no bound of its own. */
const ANY_COUNT = 2 ** 31;

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
    from: "cache" | "chunk",
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
  /**
   * For scores that need whole keys: scores candidates whose keys are on the stage now. Absent where
   * what is kept of every row is enough. {@linkcode encodeChoice} follows the last pass.
   *
   * @param first Position of the first key on the stage, a multiple of 32; `count` of them.
   */
  scoreStaged?(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    first: number,
    count: number,
    stepOffset: number,
  ): void;
  /**
   * Adds what the queries of a prefill chunk attend to, those that the store's row table marks; after
   * its attention. Only of scores that go by attention.
   *
   * @param end Rows of the sequence so far, the chunk's included.
   * @param stepOffset As of {@linkcode encodeStore}.
   */
  encodeObserved?(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    end: number,
    stepOffset: number,
  ): void;
  /**
   * The same for keys of a sequence below the device, source by source. What was encoded before has to
   * be submitted where it is of the same source.
   */
  observeKeys?(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    keys: ObservedKeys,
    stepOffset: number,
  ): void;
  /**
   * Adds what the step's rows attend to; after its attention, which leaves `lse` in qkv. Only where
   * that goes on after the prompt.
   *
   * @param splits As of attention, at `stepOffset` too.
   */
  encodeAttended?(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    splits: number,
    stepOffset: number,
  ): void;
  /** Makes the queries of the layers that a layer serves; only where queries are made ahead. */
  encodeQueries?(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
  ): void;
  /** Selects from scores that are there. */
  encodeChoice(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
  ): void;
}

/** What the scorers have in common. */
export interface Kit {
  readonly options: ScorerOptions;
  readonly buffers: ScorerBuffers;
  readonly tables: ScorerTables;
  readonly params: GPUBuffer;
  /** The same for keys of so many positions from a base on. */
  readonly words: (base: number, count: number) => Uint32Array<ArrayBuffer>;
  readonly neighbours: Kernel;
  readonly neighbourGroups: readonly GPUBindGroup[];
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
  const choose: Scorer["encodeChoice"] = (...choice) => encodeChoice(kit, ...choice);
  switch (kind) {
    case "projected":
    case "predicted":
      return await createShortKeyScorer(kit, kind, turnsOf(options), choose);
    case "exact":
      return await exact(kit);
    case "pages":
      return await pages(kit);
    default:
      return await createMassScorer(kit, kind, choose);
  }
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
  const kindIndex = SCORER_KINDS.indexOf(kind);
  const lanes = selectLanes(options);
  const neighbours = await kernels.compile(neighboursSpec(lanes));
  const neighbourGroups = Array.from(
    { length: config.numLayers },
    (_, layer) =>
      kernels.bind(neighbours, [
        rows,
        selection.recipes(kindIndex, layer),
        kv.table(layer),
        selection.scratch,
        selection.picked(layer),
        selection.counts(layer),
        selection.selection(layer),
        params,
        step,
      ]),
  );
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
  return {
    options,
    buffers,
    tables,
    params,
    words,
    select,
    selectGroups,
    neighbours,
    neighbourGroups,
  };
}

function encodeChoice(
  kit: Kit,
  pass: GPUComputePassEncoder,
  layer: number,
  numRows: number,
  stepOffset: number,
): void {
  const { numKvHeads } = kit.options.config;
  dispatch(pass, kit.select, kit.selectGroups[layer]!, numRows * numKvHeads, stepOffset);
  if (!kit.buffers.selection.wantsNeighbours) return;
  dispatch(pass, kit.neighbours, kit.neighbourGroups[layer]!, numRows * numKvHeads, stepOffset);
}

async function exact(kit: Kit): Promise<Scorer> {
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
      encodeChoice(kit, pass, layer, numRows, stepOffset);
    },
    scoreStaged(pass, layer, numRows, first, count, stepOffset) {
      kernels.device.queue.writeBuffer(stagedParams, 0, kit.words(first, count));
      const blocks = scoreExactWorkgroups(variant, config.numKvHeads, numRows, count);
      dispatch(pass, scoring, staged![layer]!, blocks, stepOffset);
    },
    encodeChoice: (...choice) => encodeChoice(kit, ...choice),
    [Symbol.dispose]() {
      params.destroy();
      stagedParams.destroy();
    },
  };
}

async function pages(kit: Kit): Promise<Scorer> {
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
    encodeChoice: (...choice) => encodeChoice(kit, ...choice),
    encodeSelect(pass, layer, numRows, end, stepOffset) {
      const last = Math.ceil(end / SUB_PAGE);
      const blocks = scorePagesWorkgroups(scoreVariant, config.numKvHeads, numRows, last);
      dispatch(pass, scoring, layers[layer]!.score, blocks, stepOffset);
      encodeChoice(kit, pass, layer, numRows, stepOffset);
    },
    [Symbol.dispose]: () => params.destroy(),
  };
}
