/**
 * Reads device memory without the 11 ms that an awaited `mapAsync` costs in Deno.
 *
 * `mapAsync` there blocks the calling thread until the device is idle and only then goes to sleep
 * for 10 ms before it resolves; the buffer is mapped when the call returns. So the bytes can be
 * read without awaiting. Two traps: the first such use of a buffer aborts the process unless the
 * buffer was mapped once in the ordinary way, and the method rests on how Deno polls, so a
 * self-test decides at start-up and the awaited way stays as the fallback. This file is the only
 * one that knows.
 *
 * @module
 */
import { completed } from "./completions.ts";

/** A staging buffer that device memory is copied to and read from. */
export class Readback {
  readonly mode: "sync" | "awaited";
  readonly #device: GPUDevice;
  readonly #buffer: GPUBuffer;
  readonly size: number;

  private constructor(
    device: GPUDevice,
    buffer: GPUBuffer,
    size: number,
    mode: "sync" | "awaited",
  ) {
    this.#device = device;
    this.#buffer = buffer;
    this.size = size;
    this.mode = mode;
  }

  /**
   * Makes a staging buffer, warms it and finds out which way of reading works. Call it in the
   * worker that owns the device, never on the main isolate: reading blocks the thread.
   *
   * @param size Bytes; rounded up to a multiple of 16.
   * @param force Skips the self-test and takes this way.
   */
  static async create(
    device: GPUDevice,
    size: number,
    force?: "sync" | "awaited",
  ): Promise<Readback> {
    const bytes = Math.ceil(size / 16) * 16;
    const buffer = stagingBuffer(device, bytes);
    // Without this the first synchronous use aborts the process.
    await buffer.mapAsync(GPUMapMode.READ);
    buffer.unmap();
    if (force !== undefined) return new Readback(device, buffer, bytes, force);
    if (selfTest(device, buffer)) return new Readback(device, buffer, bytes, "sync");
    // A test that failed may have left its buffer waiting to be mapped: nothing can use that one.
    buffer.destroy();
    return new Readback(device, stagingBuffer(device, bytes), bytes, "awaited");
  }

  /** The buffer that results are copied into before {@linkcode read}. */
  get target(): GPUBuffer {
    return this.#buffer;
  }

  /**
   * Waits for all submitted work and returns the first bytes of the staging buffer.
   *
   * @returns The bytes themselves when reading is synchronous, else a promise of them.
   * @throws {RangeError} If the staging buffer is smaller.
   */
  read(byteLength: number): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> {
    if (byteLength > this.size) {
      throw new RangeError(`cannot read ${byteLength} bytes, the staging buffer has ${this.size}`);
    }
    if (this.mode === "awaited") return this.#readAwaited(byteLength);
    return readNow(this.#buffer, byteLength);
  }

  async #readAwaited(byteLength: number): Promise<Uint8Array<ArrayBuffer>> {
    await this.#buffer.mapAsync(GPUMapMode.READ, 0, round(byteLength));
    const bytes = new Uint8Array(this.#buffer.getMappedRange(0, round(byteLength)).slice(0));
    this.#buffer.unmap();
    completed();
    return bytes.subarray(0, byteLength);
  }

  /** Copies a range of a buffer and reads it; for tests and rare reads. */
  async copyAndRead(source: GPUBuffer, offset: number, byteLength: number): Promise<Uint8Array> {
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(source, offset, this.#buffer, 0, round(byteLength));
    this.#device.queue.submit([encoder.finish()]);
    return await this.read(byteLength);
  }

  [Symbol.dispose](): void {
    this.#buffer.destroy();
  }
}

function stagingBuffer(device: GPUDevice, size: number): GPUBuffer {
  return device.createBuffer({
    label: "readback",
    size,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
}

function round(byteLength: number): number {
  return Math.ceil(byteLength / 8) * 8;
}

function readNow(buffer: GPUBuffer, byteLength: number): Uint8Array<ArrayBuffer> {
  // Resolves long after the bytes were used; a rejection would come too late to matter.
  buffer.mapAsync(GPUMapMode.READ, 0, round(byteLength)).catch(() => {});
  const bytes = new Uint8Array(buffer.getMappedRange(0, round(byteLength))).slice(0, byteLength);
  buffer.unmap();
  completed();
  return bytes;
}

/** Writes two patterns through the device and sees whether each is read at once. */
function selfTest(device: GPUDevice, staging: GPUBuffer): boolean {
  const source = device.createBuffer({
    label: "readback self-test",
    size: 16,
    usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  try {
    for (const seed of [0x1234567, 0x7654321]) {
      const pattern = Uint32Array.of(seed, ~seed >>> 0, seed * 2, seed ^ 0x5555);
      device.queue.writeBuffer(source, 0, pattern);
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(source, 0, staging, 0, 16);
      device.queue.submit([encoder.finish()]);
      const got = new Uint32Array(readNow(staging, 16).buffer);
      if (pattern.some((word, index) => word !== got[index])) return false;
    }
    return true;
  } catch {
    return false;
  } finally {
    source.destroy();
  }
}
