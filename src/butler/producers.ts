/**
 * Importance queries on the device: a predictor's producers, and where their queries lie until the
 * layers that they serve choose by them.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel, type Kernels } from "../gpu/kernels.ts";
import {
  importanceProduceSpec,
  type ImportanceProduceVariant,
  importanceProduceWorkgroups,
  PRODUCE_PARAMS,
} from "../gpu/ops/importance_produce.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import { paddedCols } from "../gpu/weight_layout.ts";
import type { RopeConfig } from "../model/types.ts";
import { type Predictor, PRODUCER_NORM_EPS } from "./predictor/predictor.ts";
import { IMPORTANCE_DIM, type ProducerPlace, producersOf, queryRows } from "./predictor/shape.ts";
import { IMPORTANCE_PAIRS } from "./predictor/turns.ts";

/** What {@linkcode Producers} are made of. */
export interface ProducersOptions {
  readonly kernels: Kernels;
  readonly plan: KernelPlan;
  readonly predictor: Predictor;
  /** (rows, padded hidden size) f32: the residual stream. */
  readonly x: GPUBuffer;
  /** Rows of a decode step, at most. */
  readonly maxRows: number;
  readonly step: BufferPart;
  /** (rows, rotary / 2) cos, sin of the rows' positions, and the RoPE that they are of. */
  readonly angles: GPUBuffer;
  readonly rope: Pick<RopeConfig, "dimensions" | "attentionFactor">;
}

interface Producer {
  readonly matrixRows: number;
  readonly features: GPUBindGroup;
  readonly queries: GPUBindGroup;
}

/** All producers of a predictor. */
export class Producers implements Disposable {
  readonly #options: ProducersOptions;
  readonly #first: ImportanceProduceVariant;
  readonly #kernels: { readonly features: Kernel; readonly queries: Kernel };
  readonly #owned: GPUBuffer[] = [];
  readonly #byLayer = new Map<number, Producer>();
  readonly #queries: GPUBuffer;
  readonly #layerBytes: number;
  /** By layer: (KV heads, head size, 16) f32. */
  readonly matrices: readonly GPUBuffer[];

  private constructor(
    options: ProducersOptions,
    first: ImportanceProduceVariant,
    kernels: { readonly features: Kernel; readonly queries: Kernel },
  ) {
    this.#options = options;
    this.#first = first;
    this.#kernels = kernels;
    const { predictor: { shape, keys, producers }, maxRows } = options;
    const { numLayers, numHeads, numKvHeads, headDim } = shape.model;
    const row = numHeads * IMPORTANCE_DIM * 4;
    const unit = options.kernels.caps.storageAlignment;
    this.#layerBytes = Math.ceil(maxRows * row / unit) * unit;
    this.#queries = this.#own("importance queries", numLayers * this.#layerBytes);
    const size = numKvHeads * headDim * IMPORTANCE_DIM;
    this.matrices = Array.from(
      { length: numLayers },
      (_, layer) =>
        this.#upload(`importance keys ${layer}`, keys.subarray(layer * size, (layer + 1) * size)),
    );
    const features = this.#own("importance features", maxRows * quadsOf(shape.inner) * 16);
    for (const place of producersOf(shape)) {
      this.#byLayer.set(place.layer, this.#bind(place, producers[place.index]!, features));
    }
  }

  /** Compiles the kernels and uploads the weights. */
  static async create(options: ProducersOptions): Promise<Producers> {
    const { kernels, plan } = options;
    const variant = {
      rows: kernels.caps.software ? 16 : 4,
      lanes: plan.rowLanes,
      subgroups: plan.subgroups,
    };
    const first = { ...variant, stage: "features" as const };
    const compiled = {
      features: await kernels.compile(importanceProduceSpec(first)),
      queries: await kernels.compile(importanceProduceSpec({ ...variant, stage: "queries" })),
    };
    return new Producers(options, first, compiled);
  }

  /** (rows, heads, 16) f32 of a layer. */
  queriesOf(layer: number): { buffer: GPUBuffer; offset: number; size: number } {
    return {
      buffer: this.#queries,
      offset: layer * this.#layerBytes,
      size: this.#layerBytes,
    };
  }

  /** Makes the queries of the layers that a layer's producer serves; `x` holds what enters it. */
  encode(pass: GPUComputePassEncoder, layer: number, numRows: number, stepOffset: number): void {
    const producer = this.#byLayer.get(layer);
    if (producer === undefined) return;
    const { inner } = this.#options.predictor.shape;
    const { features, queries } = this.#kernels;
    const count = (rows: number) => importanceProduceWorkgroups(this.#first, rows, numRows);
    dispatch(pass, features, producer.features, count(inner), stepOffset);
    dispatch(pass, queries, producer.queries, count(producer.matrixRows), stepOffset);
  }

  #bind(
    place: ProducerPlace,
    { up, down, normWeight, normBias }: Predictor["producers"][number],
    features: GPUBuffer,
  ): Producer {
    const { kernels, x, step, angles, rope, predictor: { shape, turns } } = this.#options;
    const { inner, model: { hiddenSize, numHeads, numKvHeads } } = shape;
    const perLayer = numKvHeads * IMPORTANCE_PAIRS;
    const served = turns.subarray(place.first * perLayer, (place.first + place.count) * perLayer);
    const name = (part: string) => `producer ${place.index} ${part}`;
    const firstParams = this.#uniform(PRODUCE_PARAMS.pack({
      width: hiddenSize,
      quads: quadsOf(hiddenSize),
      eps: PRODUCER_NORM_EPS,
      matrix_rows: inner,
      input_stride: paddedCols(hiddenSize) / 4,
      layer_rows: quadsOf(inner) * 4,
      layer_stride: 0,
      pairs: 0,
      turn_scale: 0,
    }));
    const matrixRows = queryRows(shape, place);
    const secondParams = this.#uniform(PRODUCE_PARAMS.pack({
      width: inner,
      quads: quadsOf(inner),
      eps: 0,
      matrix_rows: matrixRows,
      input_stride: quadsOf(inner),
      layer_rows: numHeads * IMPORTANCE_DIM,
      layer_stride: this.#layerBytes / 4,
      pairs: rope.dimensions / 2,
      turn_scale: 1 / rope.attentionFactor,
    }));
    return {
      matrixRows,
      features: kernels.bind(this.#kernels.features, [
        this.#upload(name("up"), padded(up, hiddenSize)),
        x,
        features,
        this.#upload(name("gain"), padded(normWeight, hiddenSize)),
        this.#upload(name("bias"), padded(normBias, hiddenSize)),
        firstParams,
        step,
      ]),
      queries: kernels.bind(this.#kernels.queries, [
        this.#upload(name("down"), padded(down, inner)),
        features,
        {
          buffer: this.#queries,
          offset: place.first * this.#layerBytes,
          size: place.count * this.#layerBytes,
        },
        this.#upload(name("turns"), byHead(served, numHeads / numKvHeads)),
        angles,
        secondParams,
        step,
      ]),
    };
  }

  #own(label: string, bytes: number): GPUBuffer {
    const buffer = this.#options.kernels.storage(label, bytes);
    this.#owned.push(buffer);
    return buffer;
  }

  #upload(
    label: string,
    values: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>,
  ): GPUBuffer {
    const buffer = this.#own(label, values.byteLength);
    this.#options.kernels.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  #uniform(words: Uint32Array<ArrayBuffer>): GPUBuffer {
    const buffer = this.#options.kernels.uniform("produce params", words);
    this.#owned.push(buffer);
    return buffer;
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#owned) buffer.destroy();
  }
}

/** Turns of KV heads, for each query head of their groups. */
function byHead(turns: Int32Array, group: number): Uint32Array<ArrayBuffer> {
  const out = new Uint32Array(turns.length * group);
  for (let list = 0; list < turns.length / IMPORTANCE_PAIRS; list++) {
    // -1, for a pair that stands still, is the shader's largest number.
    const own = turns.subarray(list * IMPORTANCE_PAIRS, (list + 1) * IMPORTANCE_PAIRS);
    for (let head = 0; head < group; head++) out.set(own, (list * group + head) * own.length);
  }
  return out;
}

/** vec4s of a row. */
function quadsOf(cols: number): number {
  return Math.ceil(cols / 4);
}

/** Rows of whole vec4s; what is more than there was is 0. */
function padded(values: Float32Array<ArrayBuffer>, cols: number): Float32Array<ArrayBuffer> {
  const stride = quadsOf(cols) * 4;
  if (stride === cols) return values;
  const rows = values.length / cols;
  const out = new Float32Array(rows * stride);
  for (let row = 0; row < rows; row++) {
    out.set(values.subarray(row * cols, (row + 1) * cols), row * stride);
  }
  return out;
}
