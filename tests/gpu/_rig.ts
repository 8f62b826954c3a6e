/**
 * What the kernel tests share: one device a file, buffers that are cleaned up, random numbers from
 * a seed, and comparisons whose message says what to look at.
 */
import { type DeviceCaps, type OpenDevice, openDevice } from "../../src/gpu/device.ts";
import {
  type BufferPart,
  dispatch,
  type Kernel,
  Kernels,
  type KernelSpec,
} from "../../src/gpu/kernels.ts";
import { Readback } from "../../src/gpu/readback.ts";
import { STEP_PARAMS } from "../../src/gpu/step_params.ts";
import { assert } from "std-testing";

/** What a step's uniform holds; absent members are 0, `num_splits` 1. */
export interface StepValues {
  readonly num_rows: number;
  readonly first_row?: number;
  readonly num_splits?: number;
  readonly logits_row?: number;
}

/** One dispatch of a kernel. The step's uniform is added as the last binding. */
export interface Call {
  readonly spec: KernelSpec;
  readonly parts: readonly BufferPart[];
  readonly step: StepValues;
  readonly workgroups: number;
}

type Data = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;

const READBACK_BYTES = 16 * 2 ** 20;

let shared: Promise<{ open: OpenDevice; kernels: Kernels; readback: Readback }> | undefined;

/** One device for all tests of a file, so that each variant is compiled once. */
function sharedDevice() {
  shared ??= (async () => {
    const open = await openDevice();
    const readback = await Readback.create(open.device, READBACK_BYTES);
    return { open, kernels: new Kernels(open.device, open.caps), readback };
  })();
  return shared;
}

// The map promises of synchronous reads resolve about 10 ms late: let them, before the end.
Deno.test.afterAll(async () => {
  if (shared === undefined) return;
  const { open, readback } = await shared;
  await new Promise((resolve) => setTimeout(resolve, 30));
  readback[Symbol.dispose]();
  open.device.destroy();
});

/** Buffers and dispatches of one test. Dispose of it. */
export class Rig {
  readonly #buffers: GPUBuffer[] = [];

  private constructor(
    readonly kernels: Kernels,
    readonly caps: DeviceCaps,
    readonly readback: Readback,
  ) {}

  static async create(): Promise<Rig> {
    const { open, kernels, readback } = await sharedDevice();
    return new Rig(kernels, open.caps, readback);
  }

  /** Lanes of a subgroup, or 0 where sums cannot be left to one. */
  get subgroup(): number {
    const { subgroups, subgroupMin, subgroupMax } = this.caps;
    return subgroups && subgroupMin === subgroupMax ? subgroupMin : 0;
  }

  /** Storage buffer with contents. */
  storage(data: Data): GPUBuffer {
    const buffer = this.kernels.storage("test", data.byteLength);
    this.kernels.device.queue.writeBuffer(buffer, 0, data);
    this.#buffers.push(buffer);
    return buffer;
  }

  uniform(words: Uint32Array<ArrayBuffer>): GPUBuffer {
    const buffer = this.kernels.uniform("test", words);
    this.#buffers.push(buffer);
    return buffer;
  }

  /** Runs dispatches in one pass. The step's values lie at an offset above 0. */
  async run(calls: readonly Call[]): Promise<void> {
    const { device } = this.kernels;
    const stride = Math.max(this.caps.uniformAlignment, STEP_PARAMS.size);
    const words = new Uint32Array(stride / 4 * (calls.length + 1)).fill(0xffffffff);
    calls.forEach(({ step }, index) => {
      const values = { first_row: 0, num_splits: 1, logits_row: 0, ...step };
      words.set(STEP_PARAMS.pack(values), stride / 4 * (index + 1));
    });
    const steps = { buffer: this.uniform(words), offset: 0, size: STEP_PARAMS.size };
    const compiled: Kernel[] = [];
    for (const call of calls) compiled.push(await this.kernels.compile(call.spec));
    device.pushErrorScope("validation");
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    calls.forEach(({ parts, workgroups }, index) => {
      const kernel = compiled[index]!;
      const group = this.kernels.bind(kernel, [...parts, steps]);
      dispatch(pass, kernel, group, workgroups, stride * (index + 1));
    });
    pass.end();
    device.queue.submit([encoder.finish()]);
    const error = await device.popErrorScope();
    assert.equal(error, null, `${calls[0]!.spec.variant}: ${error?.message}`);
  }

  async floats(buffer: GPUBuffer, count: number): Promise<Float32Array> {
    return new Float32Array((await this.#read(buffer, count * 4)).buffer);
  }

  async words(buffer: GPUBuffer, count: number): Promise<Uint32Array> {
    return new Uint32Array((await this.#read(buffer, count * 4)).buffer);
  }

  async #read(buffer: GPUBuffer, bytes: number): Promise<Uint8Array> {
    return await this.readback.copyAndRead(buffer, 0, bytes);
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }
}

/** Random numbers from a seed. */
export class Random {
  #state: number;

  constructor(readonly seed: number) {
    this.#state = (seed * 0x9e3779b1) >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    let x = (this.#state = (this.#state + 0x9e3779b9) >>> 0);
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32;
  }

  /** Whole number in [low, high]. */
  int(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  /** Numbers spread like a bell around 0, with a deviation of about `scale`. */
  floats(count: number, scale = 1): Float32Array<ArrayBuffer> {
    return Float32Array.from(
      { length: count },
      () => (this.next() + this.next() + this.next() - 1.5) * 2 * scale,
    );
  }

  /** 0 .. count - 1 in another order. */
  permutation(count: number): number[] {
    const order = Array.from({ length: count }, (_, index) => index);
    for (let i = count - 1; i > 0; i--) {
      const j = this.int(0, i);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}

/** Bounds of a comparison. */
export interface Bounds {
  /** Mean squared error over the mean square of what is wanted. */
  readonly nmse: number;
  /** Largest error over the root mean square of what is wanted. */
  readonly max: number;
}

/** f32 arithmetic with sums of a few thousand terms. */
export const F32_BOUNDS: Bounds = { nmse: 1e-11, max: 2e-5 };

/**
 * Compares with a reference.
 *
 * @param want Values; `null` where the kernel must leave `blank` as it was.
 */
export function assertClose(
  got: ArrayLike<number>,
  want: readonly (number | null)[],
  bounds: Bounds,
  where: string,
  blank = UNTOUCHED,
): void {
  assert.equal(got.length, want.length, `${where}: length`);
  let power = 0;
  let error = 0;
  let count = 0;
  for (let i = 0; i < want.length; i++) {
    const value = want[i]!;
    if (value === null) {
      if (got[i] !== blank) assert.fail(`${where}: index ${i} should not be written`);
      continue;
    }
    if (!Number.isFinite(got[i])) assert.fail(`${where}: index ${i} is ${got[i]}, not ${value}`);
    power += value * value;
    error += (got[i]! - value) ** 2;
    count++;
  }
  assert.ok(count > 0, `${where}: nothing to compare`);
  const limit = bounds.max * Math.sqrt(power / count);
  for (let i = 0; i < want.length; i++) {
    const value = want[i]!;
    if (value !== null && Math.abs(got[i]! - value) > limit) {
      assert.fail(`${where}: index ${i} is ${got[i]}, should be ${value} (+-${limit})`);
    }
  }
  assert.ok(error <= bounds.nmse * power, `${where}: NMSE ${error / power} > ${bounds.nmse}`);
}

/** What outputs are filled with before a kernel runs. */
export const UNTOUCHED = 12345.5;

/** An output buffer's contents before a kernel runs. */
export function untouched(count: number): Float32Array<ArrayBuffer> {
  return new Float32Array(count).fill(UNTOUCHED);
}
