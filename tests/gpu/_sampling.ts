/** What the tests of the sampler share: a device, a sampler of each variant, random logits. */
import type { Sampled, SampleSpec } from "../../src/engine/runner_types.ts";
import { type OpenDevice, openDevice } from "../../src/gpu/device.ts";
import { Kernels } from "../../src/gpu/kernels.ts";
import { Sampler } from "../../src/gpu/ops/sample.ts";
import { Readback } from "../../src/gpu/readback.ts";
import { assert } from "std-testing";

/** Overrides of every variant that is built, by a readable name. */
export const VARIANTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "lanes 8": { sample_wg: "8" },
  "lanes 64": { sample_wg: "64", sample_splits: "64" },
  "lanes 256": { sample_wg: "256", sample_splits: "64" },
};

export const GREEDY_SPEC: SampleSpec = {
  temperature: 0,
  topK: 0,
  typicalP: 1,
  topP: 1,
  minP: 0,
  seed: 0,
  step: 0,
  adjustments: [],
  forced: null,
  logprobs: null,
};

/** Numbers in [0, 1) from a seed. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Logits like a model's: a bell with a few that stand out. */
export function modelLogits(vocab: number, seed: number): Float32Array<ArrayBuffer> {
  const random = randomOf(seed);
  return Float32Array.from({ length: vocab }, () => {
    const bell = random() + random() + random() + random() - 2;
    return bell * 4 + (random() < 0.002 ? random() * 8 : 0);
  });
}

const MAX_SLOTS = 80;

let opened: Promise<{ open: OpenDevice; kernels: Kernels }> | undefined;

/** One device for all tests of a file, so that each variant is compiled once. */
function sharedDevice(): Promise<{ open: OpenDevice; kernels: Kernels }> {
  opened ??= openDevice().then((open) => {
    addEventListener("unload", () => open.device.destroy());
    return { open, kernels: new Kernels(open.device, open.caps) };
  });
  return opened;
}

/** Buffers for a number of rows. Dispose of it. */
export class SampleRig {
  private constructor(
    readonly open: OpenDevice,
    readonly kernels: Kernels,
    readonly readback: Readback,
    readonly logits: GPUBuffer,
    readonly lastTokens: GPUBuffer,
    readonly vocab: number,
    readonly maxRows: number,
  ) {}

  static async create(vocab: number, maxRows: number): Promise<SampleRig> {
    const { open, kernels } = await sharedDevice();
    const bytes = Math.max(64 * 1024, maxRows * vocab * 4);
    return new SampleRig(
      open,
      kernels,
      await Readback.create(open.device, bytes),
      kernels.storage("logits", maxRows * vocab * 4),
      kernels.storage("last tokens", MAX_SLOTS * 4),
      vocab,
      maxRows,
    );
  }

  async sampler(overrides: Readonly<Record<string, string>> = {}): Promise<Sampler> {
    const { vocab, maxRows, logits, lastTokens } = this;
    return await Sampler.create(this.kernels, {
      vocabSize: vocab,
      maxRows,
      logits,
      lastTokens,
      overrides,
    });
  }

  /** Row r gets `rows[r]`. */
  write(rows: readonly Float32Array<ArrayBuffer>[]): void {
    rows.forEach((row, index) => {
      this.open.device.queue.writeBuffer(this.logits, index * this.vocab * 4, row);
    });
  }

  /** One step; slot of row r is r. */
  async run(sampler: Sampler, specs: readonly SampleSpec[]): Promise<Sampled[]> {
    return sampler.parse(await this.runBytes(sampler, specs), specs.length);
  }

  async runBytes(
    sampler: Sampler,
    specs: readonly SampleSpec[],
    slots?: readonly number[],
  ): Promise<Uint8Array> {
    const { device } = this.open;
    device.pushErrorScope("validation");
    sampler.prepare(specs.map((spec, row) => ({ slot: slots?.[row] ?? row, spec })));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    sampler.encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    const bytes = await this.read(sampler.results, specs.length * sampler.bytesPerRow);
    assert.equal(await device.popErrorScope(), null);
    return bytes;
  }

  async read(buffer: GPUBuffer, byteLength: number): Promise<Uint8Array> {
    return await this.readback.copyAndRead(buffer, 0, byteLength);
  }

  [Symbol.dispose](): void {
    this.logits.destroy();
    this.lastTokens.destroy();
    this.readback[Symbol.dispose]();
  }
}
