/**
 * Trains one producer and the key projections of its layers on the device. A step is one window:
 * forward, loss, backward and update in one submission. `objective.ts` says what is computed.
 *
 * @module
 */
import { IMPORTANCE_DIM } from "../butler/predictor/shape.ts";
import { dispatch, type Kernel, type Kernels } from "../gpu/kernels.ts";
import {
  ADAM_PARAMS,
  CLIP_GROUPS,
  TRAIN_MATMUL_PARAMS,
  TRAIN_PARAMS,
  TRAIN_TILE,
  trainActivateSpec,
  trainAdamwSpec,
  trainClipSpec,
  trainLossSpec,
  type TrainMatmulForm,
  trainMatmulSpec,
  trainNormSlopeSpec,
  trainTeacherSpec,
} from "../gpu/ops/train.ts";
import { Readback } from "../gpu/readback.ts";
import type { RateParts } from "./settings.ts";
import {
  lossWeights,
  normalized,
  type Objective,
  type ObjectiveWindow,
  type ProducerSizes,
  type ProducerValues,
} from "./objective.ts";

/** What a trainer is built from. */
export interface DeviceTrainerOptions {
  readonly kernels: Kernels;
  /** Lanes of a workgroup; one subgroup where `subgroups` is set. */
  readonly lanes: number;
  readonly subgroups: boolean;
  readonly sizes: ProducerSizes;
  readonly objective: Objective;
  /** Length that gradients are cut to. */
  readonly clip: number;
  /** Of the matrices of the producer. */
  readonly decay: number;
  readonly rateParts: RateParts;
}

/** Names of the trained values, in the order in which they lie. */
const NAMES = ["up", "down", "keys", "gain", "bias"] as const;
type Name = typeof NAMES[number];

/** Numbers of the optimiser, which a training goes on with. */
export interface OptimizerState {
  readonly values: Float32Array<ArrayBuffer>;
  /** (values) mean of the gradient, mean of its square */
  readonly moments: Float32Array<ArrayBuffer>;
  readonly steps: number;
}

/** A window on the device. */
export interface DeviceWindow extends Disposable {
  readonly bytes: number;
  readonly normed: GPUBuffer;
  readonly keys: GPUBuffer;
  readonly shares: GPUBuffer;
  readonly mass: GPUBuffer;
  readonly positions: GPUBuffer;
  readonly calls: readonly Call[];
}

interface Call {
  readonly kernel: Kernel;
  readonly group: GPUBindGroup;
  readonly workgroups: number;
}

/** One operand: its buffer, and where its matrices lie in it, in f32. */
interface Operand {
  readonly buffer: GPUBuffer;
  readonly at?: number;
  readonly stride: number;
  readonly batch?: number;
  readonly div?: number;
  readonly segment?: number;
}

interface MatmulSizes {
  readonly m: number;
  readonly n: number;
  readonly depth: number;
  readonly batches?: number;
  readonly segments?: number;
  readonly alpha?: number;
  /** Of rows that see tokens up to there only. */
  readonly positions?: GPUBuffer;
}

const BETA1 = 0.9;
const BETA2 = 0.999;

/** The trainer. Dispose of it. */
export class DeviceTrainer implements Disposable {
  readonly #options: DeviceTrainerOptions;
  readonly #places: Readonly<Record<Name, number>>;
  readonly #count: number;
  readonly #owned: GPUBuffer[] = [];
  readonly #buffers;
  readonly #params: GPUBuffer;
  readonly #adam: GPUBuffer;
  readonly #readback: Readback;
  readonly #kernels;
  #steps = 0;

  private constructor(
    options: DeviceTrainerOptions,
    kernels: Awaited<ReturnType<typeof compileAll>>,
    readback: Readback,
  ) {
    this.#options = options;
    this.#kernels = kernels;
    this.#readback = readback;
    const { sizes, objective, clip } = options;
    const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
    const lengths = lengthsOf(sizes);
    let at = 0;
    this.#places = Object.fromEntries(NAMES.map((name) => {
      const place = at;
      at += lengths[name];
      return [name, place];
    })) as Record<Name, number>;
    this.#count = at;
    const f32 = (label: string, count: number) =>
      this.#own(options.kernels.storage(label, count * 4));
    const lists = served * numHeads;
    const width = lists * IMPORTANCE_DIM;
    this.#buffers = {
      values: f32("trained values", this.#count),
      gradients: f32("gradients", this.#count),
      moments: f32("moments", this.#count * 2),
      clipped: f32("clipped", CLIP_GROUPS + 1),
      affine: f32("affine", rows * hiddenSize),
      before: f32("before", rows * inner),
      features: f32("features", rows * inner),
      queries: f32("queries", rows * width),
      keys: f32("keys", served * numKvHeads * tokens * IMPORTANCE_DIM),
      scores: f32("scores", lists * rows * tokens),
      loss: f32("loss", served * numKvHeads * rows),
      querySlopes: f32("query slopes", rows * width),
      keySlopes: f32("key slopes", served * numKvHeads * tokens * IMPORTANCE_DIM),
      featureSlopes: f32("feature slopes", rows * inner),
      beforeSlopes: f32("before slopes", rows * inner),
      affineSlopes: f32("affine slopes", rows * hiddenSize),
      realQueries: f32("real queries", lists * rows * headDim),
    };
    const weights = lossWeights(objective.loss);
    this.#params = this.#own(options.kernels.uniform(
      "train params",
      TRAIN_PARAMS.pack({
        rows,
        tokens,
        hidden: hiddenSize,
        inner,
        sinks: objective.sinks,
        window: objective.window,
        head_weight: weights.head / (lists * rows),
        group_weight: weights.group / (served * numKvHeads * rows),
        tail_weight: weights.tail / (served * numKvHeads * rows),
        count: this.#count,
        gain_at: this.#places.gain,
        bias_at: this.#places.bias,
        clip,
      }),
    ));
    this.#adam = this.#own(options.kernels.uniform("adam", new Uint32Array(ADAM_PARAMS.size / 4)));
  }

  /**
   * Compiles the kernels and makes room.
   *
   * @throws {RangeError} If sizes are no multiples of 8.
   * @throws {DeviceError} If the device has no room.
   */
  static async create(options: DeviceTrainerOptions): Promise<DeviceTrainer> {
    const { sizes, kernels } = options;
    for (const name of ["hiddenSize", "inner", "headDim", "rows", "tokens"] as const) {
      if (sizes[name] % TRAIN_TILE === 0) continue;
      throw new RangeError(`${name} is ${sizes[name]}, no multiple of ${TRAIN_TILE}`);
    }
    const { served, numKvHeads, rows } = sizes;
    const lengths = Object.values(lengthsOf(sizes)).reduce((sum, length) => sum + length, 0);
    const bytes = 4 * Math.max(2 * lengths, served * numKvHeads * rows);
    const readback = await Readback.create(kernels.device, bytes);
    return new DeviceTrainer(options, await compileAll(options), readback);
  }

  #own<T extends GPUBuffer>(buffer: T): T {
    this.#owned.push(buffer);
    return buffer;
  }

  /** Values and optimiser to go on with. */
  load(state: OptimizerState): void {
    const { queue } = this.#options.kernels.device;
    queue.writeBuffer(this.#buffers.values, 0, state.values);
    queue.writeBuffer(this.#buffers.moments, 0, state.moments);
    this.#steps = state.steps;
  }

  /** The state in which training begins with some values. */
  stateOf(values: ProducerValues): OptimizerState {
    const flat = new Float32Array(this.#count);
    for (const name of NAMES) flat.set(values[name], this.#places[name]);
    return { values: flat, moments: new Float32Array(2 * this.#count), steps: 0 };
  }

  /** Values and optimiser as they are now. */
  async state(): Promise<OptimizerState> {
    return {
      values: await this.#read(this.#buffers.values, this.#count),
      moments: await this.#read(this.#buffers.moments, 2 * this.#count),
      steps: this.#steps,
    };
  }

  /** Values by name. */
  valuesOf({ values }: OptimizerState): ProducerValues<Float32Array<ArrayBuffer>> {
    return DeviceTrainer.split(this.#options.sizes, values);
  }

  /** Values by name, of the flat list that checkpoints have. */
  static split(
    sizes: ProducerSizes,
    values: Float32Array<ArrayBuffer>,
  ): ProducerValues<Float32Array<ArrayBuffer>> {
    const lengths = lengthsOf(sizes);
    let at = 0;
    return Object.fromEntries(NAMES.map((name) => {
      const part = values.slice(at, at + lengths[name]);
      at += lengths[name];
      return [name, part];
    })) as unknown as ProducerValues<Float32Array<ArrayBuffer>>;
  }

  /** Steps so far. */
  get steps(): number {
    return this.#steps;
  }

  /** Gradients of the last step, for tests. */
  async gradients(): Promise<ProducerValues<Float32Array<ArrayBuffer>>> {
    const values = await this.#read(this.#buffers.gradients, this.#count);
    return this.valuesOf({ values, moments: values, steps: 0 });
  }

  /**
   * Brings a window to the device and works out what the model attends to in it. The caller disposes
   * of it.
   *
   * @throws {RangeError} If positions do not rise.
   */
  openWindow(window: ObjectiveWindow): DeviceWindow {
    const { kernels, sizes } = this.#options;
    const { device } = kernels;
    const { hiddenSize, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
    for (let row = 1; row < rows; row++) {
      if (window.positions[row]! > window.positions[row - 1]!) continue;
      throw new RangeError("positions must rise from row to row");
    }
    const lists = served * numHeads;
    const upload = (
      label: string,
      values: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>,
    ) => {
      const buffer = kernels.storage(label, values.byteLength);
      device.queue.writeBuffer(buffer, 0, values);
      return buffer;
    };
    const normed = upload(
      "normed states",
      Float32Array.from(normalized(window.hidden, hiddenSize)),
    );
    const keys = upload("real keys", Float32Array.from(window.keys));
    const positions = upload("positions", Uint32Array.from(window.positions));
    const shares = kernels.storage("shares", lists * rows * tokens * 2);
    const mass = kernels.storage("mass", lists * rows * 4);
    const { scores, realQueries } = this.#buffers;
    device.queue.writeBuffer(realQueries, 0, Float32Array.from(window.queries));
    const made: GPUBuffer[] = [];
    const scoring = this.#matmul(
      "NT",
      { buffer: realQueries, stride: headDim, batch: rows * headDim },
      { buffer: keys, stride: headDim, batch: tokens * headDim, div: numHeads / numKvHeads },
      { buffer: scores, stride: tokens, batch: rows * tokens },
      {
        m: rows,
        n: tokens,
        depth: headDim,
        batches: lists,
        alpha: 1 / Math.sqrt(headDim),
        positions,
      },
      made,
    );
    const { teacher } = this.#kernels;
    const group = kernels.bind(teacher, [scores, positions, shares, mass, this.#params]);
    this.#submit([scoring, { kernel: teacher, group, workgroups: lists * rows }]);
    const buffers = [normed, keys, positions, shares, mass];
    const parts = { normed, keys, positions, shares, mass };
    const calls = this.#stepCalls(parts, made);
    return {
      ...parts,
      calls,
      bytes: buffers.reduce((sum, { size }) => sum + size, 0),
      [Symbol.dispose]: () => [...buffers, ...made].forEach((buffer) => buffer.destroy()),
    };
  }

  /** Room that a window takes on the device, in bytes. */
  static windowBytes(sizes: ProducerSizes): number {
    const { hiddenSize, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
    return 4 * rows * hiddenSize + served * numKvHeads * tokens * headDim * 4 +
      served * numHeads * rows * (tokens * 2 + 4);
  }

  /** Room that the trainer takes beside its windows, in bytes. */
  static ownBytes(sizes: ProducerSizes): number {
    const { served, numHeads, rows, tokens, headDim } = sizes;
    return served * numHeads * rows * (tokens + headDim) * 4;
  }

  /** Loss and gradients of a window, and (unless `rate` is 0) an update by them. Does not wait. */
  step(window: DeviceWindow, rate: number): void {
    const { kernels, decay, rateParts } = this.#options;
    const update = rate > 0;
    if (update) {
      this.#steps++;
      kernels.device.queue.writeBuffer(
        this.#adam,
        0,
        ADAM_PARAMS.pack({
          count: this.#count,
          // Key projections, gain and bias have no matrix product to shrink into.
          decay_end: this.#places.keys,
          down_at: this.#places.down,
          keys_end: this.#places.gain,
          up_rate: rate * rateParts.up,
          down_rate: rate * rateParts.down,
          keys_rate: rate * rateParts.keys,
          norm_rate: rate * rateParts.norm,
          decay,
          beta1: BETA1,
          beta2: BETA2,
          correction1: 1 / (1 - BETA1 ** this.#steps),
          correction2: 1 / (1 - BETA2 ** this.#steps),
        }),
      );
    }
    this.#submit(update ? [...window.calls, ...this.#updateCalls()] : window.calls);
  }

  /** Mean loss of the last step's window; waits for the device. */
  async loss(): Promise<number> {
    const { served, numKvHeads, rows } = this.#options.sizes;
    const parts = await this.#read(this.#buffers.loss, served * numKvHeads * rows);
    return parts.reduce((sum, part) => sum + part, 0);
  }

  #submit(calls: readonly Call[]): void {
    const { device } = this.#options.kernels;
    const encoder = device.createCommandEncoder({ label: "train" });
    const pass = encoder.beginComputePass({ label: "train" });
    for (const { kernel, group, workgroups } of calls) dispatch(pass, kernel, group, workgroups);
    pass.end();
    device.queue.submit([encoder.finish()]);
  }

  async #read(buffer: GPUBuffer, count: number): Promise<Float32Array<ArrayBuffer>> {
    const bytes = await this.#readback.copyAndRead(buffer, 0, count * 4);
    this.#options.kernels.check();
    return new Float32Array(bytes.slice(0, count * 4).buffer);
  }

  #matmul(
    form: TrainMatmulForm,
    a: Operand,
    b: Operand,
    c: Operand,
    { m, n, depth, batches = 1, segments = 1, alpha = 1, positions }: MatmulSizes,
    made: GPUBuffer[],
  ): Call {
    const { kernels, lanes } = this.#options;
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
    made.push(params);
    const kernel = this.#kernels[positions === undefined ? "whole" : "causal"][form];
    const seen = positions === undefined ? [] : [positions];
    const group = kernels.bind(kernel, [a.buffer, b.buffer, c.buffer, ...seen, params]);
    const tiles = batches * m / TRAIN_TILE * n / TRAIN_TILE;
    return { kernel, group, workgroups: Math.ceil(tiles / lanes) };
  }

  #stepCalls(
    window: Pick<DeviceWindow, "normed" | "keys" | "shares" | "mass" | "positions">,
    made: GPUBuffer[],
  ): Call[] {
    const { kernels, lanes, sizes } = this.#options;
    const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
    const group = numHeads / numKvHeads;
    const lists = served * numHeads;
    const kvLists = served * numKvHeads;
    const width = lists * IMPORTANCE_DIM;
    const places = this.#places;
    const { positions } = window;
    const all = this.#buffers;
    const { affine, silu, siluSlope, lossOf, normSlope } = this.#kernels;
    const scale = 1 / Math.sqrt(IMPORTANCE_DIM);
    const dim = IMPORTANCE_DIM;
    const product = (
      form: TrainMatmulForm,
      a: Operand,
      b: Operand,
      c: Operand,
      of: MatmulSizes,
    ) => this.#matmul(form, a, b, c, of, made);
    const each = (kernel: Kernel, count: number, parts: readonly GPUBuffer[]): Call => ({
      kernel,
      group: kernels.bind(kernel, [...parts, this.#params]),
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
          this.#params,
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

  #updates: readonly Call[] | null = null;

  #updateCalls(): readonly Call[] {
    const { kernels, lanes } = this.#options;
    const { values, gradients, moments, clipped } = this.#buffers;
    const { clipPart, clipWhole, adamw } = this.#kernels;
    return this.#updates ??= [
      {
        kernel: clipPart,
        group: kernels.bind(clipPart, [gradients, clipped, this.#params]),
        workgroups: CLIP_GROUPS,
      },
      {
        kernel: clipWhole,
        group: kernels.bind(clipWhole, [gradients, clipped, this.#params]),
        workgroups: 1,
      },
      {
        kernel: adamw,
        group: kernels.bind(adamw, [values, gradients, moments, clipped, this.#adam]),
        workgroups: Math.ceil(this.#count / lanes),
      },
    ];
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#owned) buffer.destroy();
    this.#readback[Symbol.dispose]();
  }
}

function lengthsOf(sizes: ProducerSizes): Record<Name, number> {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim } = sizes;
  return {
    up: inner * hiddenSize,
    down: served * numHeads * IMPORTANCE_DIM * inner,
    keys: served * numKvHeads * headDim * IMPORTANCE_DIM,
    gain: hiddenSize,
    bias: hiddenSize,
  };
}

async function compileAll({ kernels, lanes, subgroups, sizes, objective }: DeviceTrainerOptions) {
  const list = { full: objective.loss === "full", lanes, subgroups };
  const group = sizes.numHeads / sizes.numKvHeads;
  return {
    whole: {
      NT: await kernels.compile(trainMatmulSpec("NT", lanes, false)),
      NN: await kernels.compile(trainMatmulSpec("NN", lanes, false)),
      TN: await kernels.compile(trainMatmulSpec("TN", lanes, false)),
    },
    causal: {
      NT: await kernels.compile(trainMatmulSpec("NT", lanes, true)),
      NN: await kernels.compile(trainMatmulSpec("NN", lanes, true)),
      TN: await kernels.compile(trainMatmulSpec("TN", lanes, true)),
    },
    teacher: await kernels.compile(trainTeacherSpec(list)),
    lossOf: await kernels.compile(trainLossSpec(list, group, objective.loss === "tail")),
    affine: await kernels.compile(trainActivateSpec("affine", lanes)),
    silu: await kernels.compile(trainActivateSpec("silu", lanes)),
    siluSlope: await kernels.compile(trainActivateSpec("silu_slope", lanes)),
    normSlope: await kernels.compile(trainNormSlopeSpec(lanes)),
    clipPart: await kernels.compile(trainClipSpec(false, lanes, subgroups)),
    clipWhole: await kernels.compile(trainClipSpec(true, lanes, subgroups)),
    adamw: await kernels.compile(trainAdamwSpec(lanes)),
  };
}
