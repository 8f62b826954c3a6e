/**
 * What a forward pass is made of beside the weights: its options, its kernels, its activations.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import type { BufferPart, Kernel, Kernels } from "../gpu/kernels.ts";
import { type AttentionVariant, fitWorkgroupMemory, partialStride } from "../gpu/ops/attention.ts";
import { embedSpec } from "../gpu/ops/embed.ts";
import { rmsNormSpec } from "../gpu/ops/rms_norm.ts";
import { attentionFormOf, type KernelPlan, MOST_LANE_QUADS } from "../gpu/plan.ts";
import { paddedCols } from "../gpu/weight_layout.ts";
import type { DeviceTier } from "../kv/device_tier.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import type { ModelConfig, RopeConfig, WeightType } from "../model/types.ts";

/** What a forward pass is built from. */
export interface ForwardOptions {
  readonly kernels: Kernels;
  readonly plan: KernelPlan;
  readonly config: ModelConfig;
  readonly kv: DeviceTier;
  readonly kvType: "f16" | "f32";
  /** Token rows of a step, at most. */
  readonly maxRows: number;
  /** Rows of a decode step, at most. */
  readonly maxSequences: number;
  /** Rows of logits, at most. */
  readonly maxLogitRows: number;
  /** Uniform of the step, bound with a dynamic offset. */
  readonly step: BufferPart;
  /** (maxRows) vec4u: token, slot, position, 0 */
  readonly rows: GPUBuffer;
  /** (maxRows, rotary / 2) vec2f: cos, sin of {@linkcode rope} */
  readonly angles: GPUBuffer;
  readonly rope: RopeConfig;
  /** (slots) u32 */
  readonly lastTokens: GPUBuffer;
}

/** How a step attends: one row of many sequences, or many rows of one. */
export type StepKind = "decode" | "prefill";

/** The kernels that are neither matrix products nor attention. */
export interface ForwardKernels {
  readonly embed: Kernel;
  readonly norm: Kernel;
}

/** Splits that decode attention needs at full context. */
export function maxSplits(options: ForwardOptions): number {
  return Math.ceil(options.kv.contextLength / options.plan.attentionSplit);
}

/** Buffers between the kernels of a step. */
export type ActivationBuffers = ReturnType<typeof activationBuffers>;

/** Allocates the activations. The caller destroys them. */
export function activationBuffers(options: ForwardOptions) {
  const { kernels, config, maxRows } = options;
  const f32 = (label: string, rows: number, cols: number) =>
    kernels.storage(label, rows * cols * 4);
  const hidden = paddedCols(config.hiddenSize);
  const heads = config.numHeads * config.headDim;
  return {
    /** (rows, hidden) residual stream */
    x: f32("x", maxRows, hidden),
    /** (rows, hidden) */
    normed: f32("normed", Math.max(maxRows, options.maxLogitRows), hidden),
    /** (tiles of a product) sums of squares of a row of x that is normed on the way */
    squares: f32("squares", 1, hidden / 4),
    /** (rows, heads + 2 kv heads, head size) */
    qkv: f32("qkv", maxRows, heads + 2 * config.numKvHeads * config.headDim),
    /** (rows, heads, head size); the product reads its last row up to the padded width */
    attended: f32("attended", maxRows, paddedCols(heads)),
    /** (rows, intermediate) */
    gated: f32("gated", maxRows, paddedCols(config.intermediateSize)),
    /** (rows, vocabulary) */
    logits: f32("logits", options.maxLogitRows, config.vocabSize),
    /** (sequences, heads, splits, head size + 4) */
    partial: f32(
      "attention partial",
      options.maxSequences * config.numHeads * maxSplits(options),
      partialStride(config.headDim),
    ),
  };
}

/** Compiles the kernels that are neither matrix products nor attention. */
export async function compileForwardKernels(
  { kernels, plan }: ForwardOptions,
  embeddingType: WeightType,
): Promise<ForwardKernels> {
  const lanes = plan.rowLanes;
  return {
    embed: await kernels.compile(embedSpec({ type: embeddingType, lanes })),
    norm: await kernels.compile(rmsNormSpec({ lanes, subgroups: plan.subgroups })),
  };
}

/**
 * The form and sizes of attention for a kind of step.
 *
 * @throws {DeviceError} If the plan's sizes do not fit the form.
 */
export function attentionVariant(options: ForwardOptions, kind: StepKind): AttentionVariant {
  const { plan, config, kvType, kernels } = options;
  const group = config.numHeads / config.numKvHeads;
  const quads = group * config.headDim / 4;
  const planned = attentionFormOf(plan, kind);
  const onCpu = planned !== "tiled";
  const form = onCpu && quads > MOST_LANE_QUADS ? "tiled" : planned;
  if (form !== "tiled" && (BLOCK_ROWS % plan.attentionLanes || plan.attentionSplit % BLOCK_ROWS)) {
    throw new DeviceError(
      "bad_setting",
      `kernel settings do not fit: with attentionForm lanes, attentionLanes must divide ` +
        `${BLOCK_ROWS} and attentionSplit be a multiple of it`,
    );
  }
  const rows = Math.floor(plan.attentionQueries / group);
  const most = onCpu ? Math.floor(MOST_LANE_QUADS / quads) : rows;
  const variant: AttentionVariant = {
    headDim: config.headDim,
    group,
    queryRows: kind === "decode"
      ? 1
      : form === "queries"
      ? plan.attentionLanes
      : Math.max(1, Math.min(rows, most)),
    kvType,
    pageSize: BLOCK_ROWS,
    lanes: plan.attentionLanes,
    form,
  };
  return fitWorkgroupMemory(variant, kernels.caps.maxWorkgroupStorage);
}
