/** A readback whose size is not known before. @module */
import { Readback } from "./readback.ts";

/** Makes a readback when it is needed, and a larger one in its place when it is too small. */
export class GrowingReadback implements Disposable {
  readonly #device: GPUDevice;
  readonly #mode: "sync" | "awaited" | undefined;
  #readback: Readback | null = null;

  /** @param mode As that of {@linkcode Readback.create}. */
  constructor(device: GPUDevice, mode?: "sync" | "awaited") {
    this.#device = device;
    this.#mode = mode;
  }

  /** One with room for so many bytes; what was read from an earlier one is to be done with. */
  async room(bytes: number): Promise<Readback> {
    if (this.#readback === null || this.#readback.size < bytes) {
      this.#readback?.[Symbol.dispose]();
      this.#readback = await Readback.create(this.#device, bytes, this.#mode);
    }
    return this.#readback;
  }

  [Symbol.dispose](): void {
    this.#readback?.[Symbol.dispose]();
  }
}
