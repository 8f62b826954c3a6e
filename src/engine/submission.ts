/**
 * Work on its way to the device: dispatches in a compute pass, copies between passes, and as many
 * submissions as it takes.
 *
 * @module
 */

/** Opens encoders and passes when they are needed. Every encoder that was opened is submitted. */
export class Submission {
  readonly #device: GPUDevice;
  readonly #label: string;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;

  constructor(device: GPUDevice, label: string) {
    this.#device = device;
    this.#label = label;
  }

  /** The compute pass that dispatches go to. Ask again after a copy or a submission. */
  get pass(): GPUComputePassEncoder {
    this.#pass ??= this.#open().beginComputePass({ label: this.#label });
    return this.#pass;
  }

  /** Copies bytes of one buffer to another, after what was encoded before. */
  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, size: number): void {
    if (size === 0) return;
    this.#endPass();
    this.#open().copyBufferToBuffer(from, fromOffset, to, toOffset, size);
  }

  /** Sends what was encoded so far. Writes to buffers that come after it are seen by what follows. */
  submit(): void {
    this.#endPass();
    if (this.#encoder === null) return;
    this.#device.queue.submit([this.#encoder.finish()]);
    this.#encoder = null;
  }

  #open(): GPUCommandEncoder {
    this.#encoder ??= this.#device.createCommandEncoder({ label: this.#label });
    return this.#encoder;
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = null;
  }
}
