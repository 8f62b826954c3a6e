/** What ways of scoring candidates are built from, and what they do. @module */
import type { BufferPart, Kernels } from "../../gpu/kernels.ts";
import type { ImportanceKeys } from "../../gpu/ops/importance_project.ts";
import type { KernelPlan } from "../../gpu/plan.ts";
import type { DeviceTier } from "../../kv/device_tier.ts";
import type { ModelConfig, RopeConfig } from "../../model/types.ts";
import type { ImportanceStore } from "../importance_store.ts";
import type { Producers } from "../producers.ts";
import type { SelectionBuffers } from "../selection_buffers.ts";

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
