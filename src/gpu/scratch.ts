/** Buffers and dispatches that live for one small job. @module */
import {
  type BufferPart,
  dispatch,
  type Kernel,
  type Kernels,
  type KernelSpec,
} from "./kernels.ts";
import { Readback } from "./readback.ts";
import { STEP_PARAMS } from "./step_params.ts";

/** One dispatch. The step's uniform is added as the last binding. */
export interface ScratchCall {
  readonly spec: KernelSpec;
  readonly parts: readonly BufferPart[];
  readonly step: { readonly numRows: number; readonly numSplits?: number };
  readonly workgroups: number;
}

/** Bytes that can be read at once. */
const READ_BYTES = 64 * 1024;

/** Makes buffers and runs kernels; destroys the buffers when disposed of. */
export class Scratch {
  readonly #buffers: GPUBuffer[] = [];

  private constructor(readonly kernels: Kernels, readonly readback: Readback) {}

  static async create(kernels: Kernels): Promise<Scratch> {
    return new Scratch(kernels, await Readback.create(kernels.device, READ_BYTES));
  }

  /** Storage buffer with contents. */
  storage(
    data: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>,
  ): GPUBuffer {
    const buffer = this.kernels.storage("scratch", data.byteLength);
    this.kernels.device.queue.writeBuffer(buffer, 0, data);
    this.#buffers.push(buffer);
    return buffer;
  }

  uniform(words: Uint32Array<ArrayBuffer>): GPUBuffer {
    const buffer = this.kernels.uniform("scratch", words);
    this.#buffers.push(buffer);
    return buffer;
  }

  /**
   * Runs dispatches in one pass.
   *
   * @throws {DeviceError} If a kernel does not compile.
   */
  async run(calls: readonly ScratchCall[]): Promise<void> {
    const { kernels } = this;
    const compiled: Kernel[] = [];
    for (const { spec } of calls) compiled.push(await kernels.compile(spec));
    const encoder = kernels.device.createCommandEncoder({ label: "scratch" });
    const pass = encoder.beginComputePass({ label: "scratch" });
    calls.forEach(({ parts, step, workgroups }, index) => {
      const values = {
        num_rows: step.numRows,
        first_row: 0,
        num_splits: step.numSplits ?? 1,
        logits_row: 0,
      };
      const uniform = this.uniform(STEP_PARAMS.pack(values));
      const group = kernels.bind(compiled[index]!, [
        ...parts,
        { buffer: uniform, offset: 0, size: STEP_PARAMS.size },
      ]);
      dispatch(pass, compiled[index]!, group, workgroups, 0);
    });
    pass.end();
    kernels.device.queue.submit([encoder.finish()]);
  }

  /** The first `count` values of a buffer of f32. */
  async floats(buffer: GPUBuffer, count: number): Promise<Float32Array> {
    const bytes = await this.readback.copyAndRead(buffer, 0, count * 4);
    return new Float32Array(bytes.slice().buffer);
  }

  /** The first `count` words of a buffer. */
  async words(buffer: GPUBuffer, count: number): Promise<Uint32Array> {
    const bytes = await this.readback.copyAndRead(buffer, 0, count * 4);
    return new Uint32Array(bytes.slice().buffer);
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.destroy();
    this.readback[Symbol.dispose]();
  }
}
