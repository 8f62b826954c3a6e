/**
 * Trains one producer and the key projections of its layers on the device. A step is one window:
 * forward, loss, backward and update in one submission. `objective.ts` says what is computed.
 *
 * @module
 */
import { IMPORTANCE_PAIRS, STILL, type Turning } from "../../butler/predictor/turns.ts";
import { dispatch } from "../../gpu/kernels.ts";
import { ADAM_PARAMS, CLIP_GROUPS, TRAIN_PARAMS, TRAIN_TILE } from "../../gpu/ops/train.ts";
import { Readback } from "../../gpu/readback.ts";
import {
  lossWeights,
  normalized,
  type ObjectiveWindow,
  type ProducerSizes,
  type ProducerValues,
} from "../objective.ts";
import type { RateParts } from "../settings.ts";
import { makeBuffers, type TrainBuffers } from "./buffers.ts";
import { compileAll, type TrainKernelOptions, type TrainKernels } from "./kernels.ts";
import { type Call, Products } from "./products.ts";
import { stepCalls, type WindowBuffers } from "./step_calls.ts";
import { type Name, type OptimizerState, placesOf, splitValues } from "./values.ts";

/** What a trainer is built from. */
export interface DeviceTrainerOptions extends TrainKernelOptions {
  readonly turning: Turning;
  /** Length that gradients are cut to. */
  readonly clip: number;
  /** Of the matrices of the producer. */
  readonly decay: number;
  readonly rateParts: RateParts;
}

/** A window on the device. */
export interface DeviceWindow extends WindowBuffers, Disposable {
  readonly bytes: number;
  readonly calls: readonly Call[];
}

const BETA1 = 0.9;
const BETA2 = 0.999;

/** The trainer. Dispose of it. */
export class DeviceTrainer implements Disposable {
  readonly #options: DeviceTrainerOptions;
  readonly #places: Readonly<Record<Name, number>>;
  readonly #count: number;
  readonly #owned: GPUBuffer[] = [];
  readonly #buffers: TrainBuffers;
  readonly #params: GPUBuffer;
  readonly #adam: GPUBuffer;
  readonly #readback: Readback;
  readonly #kernels: TrainKernels;
  #steps = 0;

  private constructor(
    options: DeviceTrainerOptions,
    kernels: TrainKernels,
    readback: Readback,
  ) {
    this.#options = options;
    this.#kernels = kernels;
    this.#readback = readback;
    const { sizes, objective, clip } = options;
    const { hiddenSize, inner, served, numHeads, numKvHeads, rows, tokens } = sizes;
    const lists = served * numHeads;
    ({ places: this.#places, count: this.#count } = placesOf(sizes));
    this.#buffers = makeBuffers(
      sizes,
      (label, count) => this.#own(options.kernels.storage(label, count * 4)),
    );
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
        kv_lists: served * numKvHeads,
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
    const readback = await Readback.create(kernels.device, readBytes(sizes));
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
    return splitValues(this.#options.sizes, values);
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
    const { kernels, lanes, sizes } = this.#options;
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
    const angles = upload("turns", anglesOf(this.#options.turning, window.positions));
    const shares = kernels.storage("shares", lists * rows * tokens * 2);
    const mass = kernels.storage("mass", lists * rows * 4);
    const { scores, realQueries } = this.#buffers;
    device.queue.writeBuffer(realQueries, 0, Float32Array.from(window.queries));
    const made: GPUBuffer[] = [];
    const products = new Products(kernels, lanes, this.#kernels, made);
    const scoring = products.matmul(
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
    );
    const { teacher } = this.#kernels;
    const group = kernels.bind(teacher, [scores, positions, shares, mass, this.#params]);
    this.#submit([scoring, { kernel: teacher, group, workgroups: lists * rows }]);
    const buffers = [normed, keys, positions, angles, shares, mass];
    const parts = { normed, keys, positions, angles, shares, mass };
    const own = {
      kernels,
      lanes,
      sizes,
      compiled: this.#kernels,
      places: this.#places,
      buffers: this.#buffers,
      params: this.#params,
    };
    const calls = stepCalls(own, parts, made);
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
      rows * served * numKvHeads * IMPORTANCE_PAIRS * 8 +
      served * numHeads * rows * (tokens * 2 + 4);
  }

  /** Room that the trainer takes beside its windows, in bytes. */
  static ownBytes(sizes: ProducerSizes): number {
    let bytes = readBytes(sizes);
    makeBuffers(sizes, (_, count) => bytes += count * 4);
    return bytes;
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

/** Bytes that are read back at once, at most: moments, or the losses of all rows. */
function readBytes(sizes: ProducerSizes): number {
  const { served, numKvHeads, rows } = sizes;
  return 4 * Math.max(2 * placesOf(sizes).count, served * numKvHeads * rows);
}

/** (positions, layers served, KV heads, 8) cos, sin; in double precision, as shaders have no good sine. */
function anglesOf(
  { turns, frequencies }: Turning,
  positions: ArrayLike<number>,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(positions.length * turns.length * 2);
  let at = 0;
  for (let row = 0; row < positions.length; row++) {
    for (const turn of turns) {
      const angle = turn === STILL ? 0 : positions[row]! * frequencies[turn]!;
      out[at++] = Math.cos(angle);
      out[at++] = Math.sin(angle);
    }
  }
  return out;
}
