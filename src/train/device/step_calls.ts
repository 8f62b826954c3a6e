/** What one window takes: forward, loss, backward. `objective.ts` says what is computed. @module */
import { IMPORTANCE_DIM } from "../../butler/predictor/shape.ts";
import { IMPORTANCE_PAIRS } from "../../butler/predictor/turns.ts";
import type { Kernel, Kernels } from "../../gpu/kernels.ts";
import type { TrainMatmulForm } from "../../gpu/ops/train.ts";
import type { ProducerSizes } from "../objective.ts";
import type { TrainBuffers } from "./buffers.ts";
import type { TrainKernels } from "./kernels.ts";
import { type Call, type MatmulSizes, type Operand, Products } from "./products.ts";
import type { Name } from "./values.ts";

/** What a window has on the device. */
export interface WindowBuffers {
  readonly normed: GPUBuffer;
  readonly keys: GPUBuffer;
  readonly shares: GPUBuffer;
  readonly mass: GPUBuffer;
  readonly positions: GPUBuffer;
  /** (rows, layers served, KV heads, 8) cos, sin of what queries turn by */
  readonly angles: GPUBuffer;
}

/** What the trainer has. */
export interface StepParts {
  readonly kernels: Kernels;
  readonly lanes: number;
  readonly sizes: ProducerSizes;
  readonly compiled: TrainKernels;
  readonly places: Readonly<Record<Name, number>>;
  readonly buffers: TrainBuffers;
  readonly params: GPUBuffer;
}

/**
 * The dispatches of a step, in order.
 *
 * @param made Gets the buffers that are made for them.
 */
export function stepCalls(parts: StepParts, window: WindowBuffers, made: GPUBuffer[]): Call[] {
  const { kernels, lanes, sizes, compiled, places, buffers: all, params } = parts;
  const products = new Products(kernels, lanes, compiled, made);
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const group = numHeads / numKvHeads;
  const lists = served * numHeads;
  const kvLists = served * numKvHeads;
  const width = lists * IMPORTANCE_DIM;
  const { positions } = window;
  const { affine, silu, siluSlope, lossOf, normSlope, turn, turnBack } = compiled;
  const pairs = rows * lists * IMPORTANCE_PAIRS;
  const scale = 1 / Math.sqrt(IMPORTANCE_DIM);
  const dim = IMPORTANCE_DIM;
  const product = (
    form: TrainMatmulForm,
    a: Operand,
    b: Operand,
    c: Operand,
    of: MatmulSizes,
  ) => products.matmul(form, a, b, c, of);
  const each = (kernel: Kernel, count: number, parts: readonly GPUBuffer[]): Call => ({
    kernel,
    group: kernels.bind(kernel, [...parts, params]),
    workgroups: Math.ceil(count / lanes),
  });
  const up = { buffer: all.values, at: places.up, stride: hiddenSize };
  const down = { buffer: all.values, at: places.down, stride: inner };
  const affineRows = { buffer: all.affine, stride: hiddenSize };
  const features = { buffer: all.features, stride: inner };
  const realKeys = { buffer: window.keys, stride: headDim, batch: tokens * headDim };
  const slopes = { buffer: all.scores, stride: tokens, batch: rows * tokens };
  const querySlopes = { buffer: all.querySlopes, stride: width };
  const beforeSlopes = { buffer: all.beforeSlopes, stride: inner };
  const headQueries = { buffer: all.queries, stride: width, batch: dim };
  const keysOfHeads = { buffer: all.keys, stride: dim, batch: tokens * dim, div: group };
  const matrices = { at: places.keys, stride: dim, batch: headDim * dim };
  return [
    // Forward.
    each(affine, rows * hiddenSize, [all.values, window.normed, window.normed, all.affine]),
    product("NT", affineRows, up, { buffer: all.before, stride: inner }, {
      m: rows,
      n: inner,
      depth: hiddenSize,
    }),
    each(silu, rows * inner, [all.values, all.before, all.before, all.features]),
    product("NT", features, down, { buffer: all.queries, stride: width }, {
      m: rows,
      n: width,
      depth: inner,
    }),
    each(turn, pairs, [window.angles, all.queries]),
    product(
      "NN",
      realKeys,
      { buffer: all.values, ...matrices },
      { buffer: all.keys, stride: dim, batch: tokens * dim },
      { m: tokens, n: dim, depth: headDim, batches: kvLists },
    ),
    product("NT", headQueries, keysOfHeads, slopes, {
      m: rows,
      n: tokens,
      depth: dim,
      batches: lists,
      alpha: scale,
      positions,
    }),
    {
      kernel: lossOf,
      group: kernels.bind(lossOf, [
        all.scores,
        window.shares,
        window.mass,
        window.positions,
        all.loss,
        params,
      ]),
      workgroups: kvLists * rows,
    },
    // Backward.
    product("NN", slopes, keysOfHeads, { ...querySlopes, batch: dim }, {
      m: rows,
      n: dim,
      depth: tokens,
      batches: lists,
      alpha: scale,
      positions,
    }),
    each(turnBack, pairs, [window.angles, all.querySlopes]),
    product(
      "TN",
      { ...slopes, batch: group * rows * tokens, segment: rows * tokens },
      { ...headQueries, batch: group * dim, segment: dim },
      { buffer: all.keySlopes, stride: dim, batch: tokens * dim },
      {
        m: tokens,
        n: dim,
        depth: rows,
        batches: kvLists,
        segments: group,
        alpha: scale,
        positions,
      },
    ),
    product(
      "TN",
      realKeys,
      { buffer: all.keySlopes, stride: dim, batch: tokens * dim },
      { buffer: all.gradients, ...matrices },
      { m: headDim, n: dim, depth: tokens, batches: kvLists },
    ),
    product("TN", querySlopes, features, { ...down, buffer: all.gradients }, {
      m: width,
      n: inner,
      depth: rows,
    }),
    product("NN", querySlopes, down, { buffer: all.featureSlopes, stride: inner }, {
      m: rows,
      n: inner,
      depth: width,
    }),
    each(siluSlope, rows * inner, [
      all.values,
      all.before,
      all.featureSlopes,
      all.beforeSlopes,
    ]),
    product("TN", beforeSlopes, affineRows, { ...up, buffer: all.gradients }, {
      m: inner,
      n: hiddenSize,
      depth: rows,
    }),
    product("NN", beforeSlopes, up, { buffer: all.affineSlopes, stride: hiddenSize }, {
      m: rows,
      n: hiddenSize,
      depth: inner,
    }),
    each(normSlope, hiddenSize, [window.normed, all.affineSlopes, all.gradients]),
  ];
}
