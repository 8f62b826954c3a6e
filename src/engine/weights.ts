/**
 * Brings weights from a model file to the device, in pieces, in the form the kernels read.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import type { Kernels } from "../gpu/kernels.ts";
import {
  isDeviceLayout,
  paddedCols,
  rowBytes,
  rowFileBytes,
  toDeviceLayout,
} from "../gpu/weight_layout.ts";
import { dequantizeRow } from "../model/quants.ts";
import type { WeightTensor, WeightType } from "../model/types.ts";

/** Bytes that are read, rearranged and uploaded together. */
const PIECE_BYTES = 8 * 2 ** 20;

/** Rows of a part are a multiple of this, so that tiles of rows do not cross parts. */
const PART_ROWS = 16;

/** A weight matrix on the device, in one or more buffers that hold whole rows. */
export interface DeviceMatrix {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  readonly parts: readonly {
    readonly buffer: GPUBuffer;
    readonly firstRow: number;
    readonly rows: number;
  }[];
}

/** Uploads tensors and owns their buffers. */
export class WeightStore {
  readonly #kernels: Kernels;
  readonly #onBytes: (bytes: number) => void;
  readonly #buffers: GPUBuffer[] = [];
  #piece = new Uint8Array(PIECE_BYTES);
  #converted = new Uint8Array(0);
  #bytes = 0;

  /** @param onBytes Told of file bytes as they are done. */
  constructor(kernels: Kernels, onBytes: (bytes: number) => void) {
    this.#kernels = kernels;
    this.#onBytes = onBytes;
  }

  /** Device bytes of all weights. */
  get sizeBytes(): number {
    return this.#bytes;
  }

  /** Whether tensors of one type can lie in one buffer, one after the other. */
  canJoin(tensors: readonly WeightTensor[]): boolean {
    const first = tensors[0]!;
    const bytes = tensors.reduce((sum, t) => sum + t.rows * rowBytes(t.type, t.cols), 0);
    return tensors.every((t) => t.type === first.type && t.cols === first.cols) &&
      bytes <= this.#kernels.caps.maxBindingSize;
  }

  /**
   * Uploads matrices that have type and columns in common as one, their rows one after the other.
   *
   * @throws {ModelFileError} If the file ends early.
   * @throws {DeviceError} If the device has no room.
   */
  async matrix(label: string, tensors: readonly WeightTensor[]): Promise<DeviceMatrix> {
    const { type, cols } = tensors[0]!;
    const rows = tensors.reduce((sum, tensor) => sum + tensor.rows, 0);
    const bytesOfRow = rowBytes(type, cols);
    const { maxBindingSize } = this.#kernels.caps;
    // What `canJoin` promised to lie in one buffer must do so, whatever its number of rows.
    const mostRows = rows * bytesOfRow <= maxBindingSize
      ? rows
      : Math.floor(maxBindingSize / bytesOfRow / PART_ROWS) * PART_ROWS;
    if (mostRows === 0) {
      throw new DeviceError("too_small", `a row of ${label} does not fit the adapter's bindings`);
    }
    const parts: DeviceMatrix["parts"][number][] = [];
    for (let firstRow = 0; firstRow < rows; firstRow += mostRows) {
      const count = Math.min(mostRows, rows - firstRow);
      parts.push({
        buffer: await this.#allocate(`${label}[${firstRow}]`, count * bytesOfRow),
        firstRow,
        rows: count,
      });
    }
    let row = 0;
    for (const tensor of tensors) {
      await this.#uploadRows(tensor, row, parts);
      row += tensor.rows;
    }
    return { type, rows, cols, parts };
  }

  async #uploadRows(
    tensor: WeightTensor,
    targetRow: number,
    parts: DeviceMatrix["parts"],
  ): Promise<void> {
    const { type, cols } = tensor;
    const fileRow = rowFileBytes(type, cols);
    const deviceRow = rowBytes(type, cols);
    const direct = isDeviceLayout(type, cols);
    const step = Math.max(1, Math.floor(PIECE_BYTES / Math.max(fileRow, deviceRow)));
    if (fileRow > this.#piece.length) this.#piece = new Uint8Array(fileRow);
    for (let row = 0; row < tensor.rows;) {
      const part = parts.find((p) =>
        targetRow + row >= p.firstRow && targetRow + row < p.firstRow + p.rows
      )!;
      const inPart = targetRow + row - part.firstRow;
      const count = Math.min(step, tensor.rows - row, part.rows - inPart);
      const piece = this.#piece.subarray(0, count * fileRow);
      await tensor.readInto(piece, row * fileRow);
      let bytes = piece;
      if (!direct) {
        const size = count * deviceRow;
        if (this.#converted.length < size) this.#converted = new Uint8Array(size);
        bytes = this.#converted.subarray(0, size).fill(0);
        toDeviceLayout(type, count, cols, piece, bytes);
      }
      this.#kernels.device.queue.writeBuffer(part.buffer, inPart * deviceRow, bytes);
      // Without it every upload stays in host memory until the first real submission.
      this.#kernels.device.queue.submit([]);
      this.#onBytes(piece.length);
      row += count;
    }
  }

  /**
   * Uploads vectors as f32, one right after the other, and zeros at the end, as a row of
   * activations has them. Kernels find the second by the length of the first: no gaps.
   *
   * @throws {ModelFileError} If the file ends early.
   */
  async vector(label: string, tensors: readonly WeightTensor[]): Promise<GPUBuffer> {
    const lengths = tensors.map((tensor) => tensor.rows * tensor.cols);
    const total = lengths.reduce((sum, length) => sum + length, 0);
    const values = new Float32Array(paddedCols(total));
    let at = 0;
    for (const [index, tensor] of tensors.entries()) {
      const bytes = new Uint8Array(tensor.byteLength);
      await tensor.readInto(bytes, 0);
      dequantizeRow(tensor.type, bytes, values.subarray(at, at + lengths[index]!));
      this.#onBytes(bytes.length);
      at += lengths[index]!;
    }
    const buffer = await this.#allocate(label, values.byteLength);
    this.#kernels.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  async #allocate(label: string, size: number): Promise<GPUBuffer> {
    const { device } = this.#kernels;
    device.pushErrorScope("out-of-memory");
    device.pushErrorScope("validation");
    const buffer = this.#kernels.storage(label, size);
    const errors = [await device.popErrorScope(), await device.popErrorScope()];
    const error = errors.find((e) => e !== null);
    if (error) {
      buffer.destroy();
      throw new DeviceError(
        "out_of_memory",
        `the device has no room for ${label} (${size} bytes): ${error.message}. Use a smaller or ` +
          `more strongly quantised model, or a smaller --context.`,
      );
    }
    this.#buffers.push(buffer);
    this.#bytes += buffer.size;
    return buffer;
  }

  /** Lets go of the host memory that uploading needed. */
  finish(): void {
    this.#piece = new Uint8Array(0);
    this.#converted = new Uint8Array(0);
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }
}
