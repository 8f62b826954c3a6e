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
import { type Predictor, PRODUCER_NORM_EPS } from "./predictor/predictor.ts";
import { IMPORTANCE_DIM, type ProducerPlace, producersOf, queryRows } from "./predictor/shape.ts";

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
}

/** Places of storage bindings are multiples of this, in bytes. */
const ALIGNMENT = 256;

interface Producer {
  readonly place: ProducerPlace;
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
    this.#layerBytes = Math.ceil(maxRows * row / ALIGNMENT) * ALIGNMENT;
    this.#queries = this.#own("importance queries", numLayers * this.#layerBytes);
    const size = numKvHeads * headDim * IMPORTANCE_DIM;
    this.matrices = Array.from(
      { length: numLayers },
      (_, layer) =>
        this.#upload(`importance keys ${layer}`, keys.subarray(layer * size, (layer + 1) * size)),
    );
    const features = this.#own("importance features", maxRows * shape.inner * 4);
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

  /** Layers that a producer at this one serves; none without one. */
  servedBy(layer: number): readonly number[] {
    const place = this.#byLayer.get(layer)?.place;
    return place === undefined
      ? []
      : Array.from({ length: place.count }, (_, index) => place.first + index);
  }

  /** (rows, heads, 16) f32 of a layer. */
  queriesOf(layer: number): BufferPart {
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
    const { kernels, x, step, predictor: { shape } } = this.#options;
    const { inner, model: { hiddenSize, numHeads } } = shape;
    const name = (part: string) => `producer ${place.index} ${part}`;
    const sizes = { width: hiddenSize, quads: hiddenSize / 4, eps: PRODUCER_NORM_EPS };
    const firstParams = this.#uniform(PRODUCE_PARAMS.pack({
      ...sizes,
      matrix_rows: inner,
      input_stride: paddedCols(hiddenSize) / 4,
      layer_rows: inner,
      layer_stride: 0,
    }));
    const matrixRows = queryRows(shape, place);
    const secondParams = this.#uniform(PRODUCE_PARAMS.pack({
      ...sizes,
      width: inner,
      quads: inner / 4,
      matrix_rows: matrixRows,
      input_stride: inner / 4,
      layer_rows: numHeads * IMPORTANCE_DIM,
      layer_stride: this.#layerBytes / 4,
    }));
    return {
      place,
      matrixRows,
      features: kernels.bind(this.#kernels.features, [
        this.#upload(name("up"), up),
        x,
        features,
        this.#upload(name("gain"), normWeight),
        this.#upload(name("bias"), normBias),
        firstParams,
        step,
      ]),
      queries: kernels.bind(this.#kernels.queries, [
        this.#upload(name("down"), down),
        features,
        {
          buffer: this.#queries,
          offset: place.first * this.#layerBytes,
          size: place.count * this.#layerBytes,
        },
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

  #upload(label: string, values: Float32Array<ArrayBuffer>): GPUBuffer {
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
