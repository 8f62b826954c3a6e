/** Dispatches of matrix products over buffers. @module */
import type { Kernel, Kernels } from "../../gpu/kernels.ts";
import { TRAIN_MATMUL_PARAMS, TRAIN_TILE, type TrainMatmulForm } from "../../gpu/ops/train.ts";
import type { TrainKernels } from "./kernels.ts";

/** A dispatch that is ready to be encoded. */
export interface Call {
  readonly kernel: Kernel;
  readonly group: GPUBindGroup;
  readonly workgroups: number;
}

/** One operand: its buffer, and where its matrices lie in it, in f32. */
export interface Operand {
  readonly buffer: GPUBuffer;
  readonly at?: number;
  readonly stride: number;
  readonly batch?: number;
  readonly div?: number;
  readonly segment?: number;
}

/** Sizes of a product: (m, depth) times (depth, n), so many times. */
export interface MatmulSizes {
  readonly m: number;
  readonly n: number;
  readonly depth: number;
  readonly batches?: number;
  readonly segments?: number;
  readonly alpha?: number;
  /** Of rows that see tokens up to there only. */
  readonly positions?: GPUBuffer;
}

/** Makes products. What it makes beside a call, the caller destroys. */
export class Products {
  constructor(
    readonly kernels: Kernels,
    readonly lanes: number,
    readonly compiled: TrainKernels,
    /** Gets the buffers that are made. */
    readonly made: GPUBuffer[],
  ) {}

  /**
   * c = alpha a . b; `form` says which of the two is transposed.
   *
   * @throws {RangeError} If a place or a stride is no whole vec4f.
   */
  matmul(
    form: TrainMatmulForm,
    a: Operand,
    b: Operand,
    c: Operand,
    { m, n, depth, batches = 1, segments = 1, alpha = 1, positions }: MatmulSizes,
  ): Call {
    const { kernels, lanes } = this;
    const quads = (value: number) => {
      if (value % 4 !== 0) throw new RangeError(`${value} f32 are no whole vec4f`);
      return value / 4;
    };
    const words = TRAIN_MATMUL_PARAMS.pack({
      m_tiles: m / TRAIN_TILE,
      n_tiles: n / TRAIN_TILE,
      depth,
      segments,
      batches,
      a_at: quads(a.at ?? 0),
      a_stride: quads(a.stride),
      a_batch: quads(a.batch ?? 0),
      a_div: a.div ?? 1,
      a_segment: quads(a.segment ?? 0),
      b_at: quads(b.at ?? 0),
      b_stride: quads(b.stride),
      b_batch: quads(b.batch ?? 0),
      b_div: b.div ?? 1,
      b_segment: quads(b.segment ?? 0),
      c_at: quads(c.at ?? 0),
      c_stride: quads(c.stride),
      c_batch: quads(c.batch ?? 0),
      alpha,
    });
    const params = kernels.uniform("train product", words);
    this.made.push(params);
    const kernel = this.compiled[positions === undefined ? "whole" : "causal"][form];
    const seen = positions === undefined ? [] : [positions];
    const group = kernels.bind(kernel, [a.buffer, b.buffer, c.buffer, ...seen, params]);
    const tiles = batches * m / TRAIN_TILE * n / TRAIN_TILE;
    return { kernel, group, workgroups: Math.ceil(tiles / lanes) };
  }
}
