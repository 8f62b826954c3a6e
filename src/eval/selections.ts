/** Reads what a decode step selected, and the queries that it selected for. @module */
import type { EngineParts } from "../engine/create.ts";
import type { SelectionObserver } from "../engine/observer.ts";
import type { DecodeRow } from "../engine/runner_types.ts";
import type { Submission } from "../engine/submission.ts";
import type { SelectionBuffers } from "../butler/selection_buffers.ts";
import { SLIDING } from "../gpu/ops/selection.ts";
import { GrowingReadback } from "../gpu/growing_readback.ts";
import type { AttendedRows } from "./recall.ts";

/** Sizes of the model whose selections are read. */
export interface SelectionShape {
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Copies queries while a step runs, and reads them with the lists once it is over. */
export class SelectionReader implements SelectionObserver, Disposable {
  readonly #parts: EngineParts;
  readonly #shape: SelectionShape;
  /** (layers, rows of a step, heads + 2 KV heads, head size) f32 */
  readonly #queries: GPUBuffer;
  readonly #readback: GrowingReadback;

  constructor(parts: EngineParts, shape: SelectionShape) {
    this.#parts = parts;
    this.#shape = shape;
    this.#readback = new GrowingReadback(parts.device);
    this.#queries = parts.device.createBuffer({
      label: "observed queries",
      size: shape.numLayers * parts.info.maxSequences * this.#rowBytes,
      usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    parts.runner.steps.selectionObserver = this;
  }

  get #rowBytes(): number {
    const { numHeads, numKvHeads, headDim } = this.#shape;
    return (numHeads + 2 * numKvHeads) * headDim * 4;
  }

  selected(submission: Submission, layer: number, numRows: number): void {
    const { qkv } = this.#parts.runner.activations;
    const at = layer * this.#parts.info.maxSequences * this.#rowBytes;
    submission.copy(qkv, 0, this.#queries, at, numRows * this.#rowBytes);
  }

  /**
   * Queries of a layer in the step that ran last.
   *
   * @returns (rows, heads, head size)
   */
  async queries(layer: number, numRows: number): Promise<Float32Array> {
    const { numHeads, numKvHeads, headDim } = this.#shape;
    const at = layer * this.#parts.info.maxSequences * this.#rowBytes;
    const all = new Float32Array(await this.#read(this.#queries, at, numRows * this.#rowBytes));
    const width = numHeads * headDim;
    const stride = (numHeads + 2 * numKvHeads) * headDim;
    const out = new Float32Array(numRows * width);
    for (let row = 0; row < numRows; row++) {
      out.set(all.subarray(row * stride, row * stride + width), row * width);
    }
    return out;
  }

  /** What the rows of that step, which are in slots 0 and on, select in a layer; null: all rows. */
  async attended(
    layer: number,
    rows: readonly Pick<DecodeRow, "position">[],
  ): Promise<(AttendedRows | null)[]> {
    const { selection } = this.#parts.runner;
    if (selection === null) return rows.map(() => null);
    const { numKvHeads, listCapacity } = selection.sizes;
    const header = selection.headerWords;
    const listWords = numKvHeads * listCapacity;
    const picked = selection.picked(layer);
    const words = new Uint32Array(
      await this.#gather(
        [
          ...rows.map((_, slot) => headerPart(selection, layer, slot)),
          { buffer: picked.buffer, offset: picked.offset, size: rows.length * listWords * 4 },
        ],
      ),
    );
    return rows.map(({ position }, slot) => {
      const [mode, prefix, windowStart, windowRows] = words.subarray(slot * header);
      if (mode === 0) return null;
      const slides = windowStart === SLIDING;
      const counts = words.subarray(slot * header + 4, slot * header + 4 + numKvHeads);
      const lists = rows.length * header + slot * listWords;
      return {
        prefix: prefix!,
        windowStart: slides ? Math.max(0, position + 1 - windowRows!) : windowStart!,
        lists: Array.from(counts, (count, head) => {
          const at = lists + head * listCapacity;
          return words.slice(at, at + count);
        }),
      };
    });
  }

  async #gather(
    parts: readonly {
      readonly buffer: GPUBuffer;
      readonly offset: number;
      readonly size: number;
    }[],
  ): Promise<ArrayBuffer> {
    const { device } = this.#parts;
    const size = parts.reduce((sum, part) => sum + part.size, 0);
    const readback = await this.#readback.room(size);
    const encoder = device.createCommandEncoder({ label: "read selections" });
    let at = 0;
    for (const part of parts) {
      encoder.copyBufferToBuffer(part.buffer, part.offset, readback.target, at, part.size);
      at += part.size;
    }
    device.queue.submit([encoder.finish()]);
    return (await readback.read(size)).slice().buffer;
  }

  async #read(buffer: GPUBuffer, offset: number, size: number): Promise<ArrayBuffer> {
    return await this.#gather([{ buffer, offset, size }]);
  }

  [Symbol.dispose](): void {
    this.#parts.runner.steps.selectionObserver = null;
    this.#queries.destroy();
    this.#readback[Symbol.dispose]();
  }
}

function headerPart(selection: SelectionBuffers, layer: number, slot: number) {
  const { buffer, offset } = selection.selection(layer) as { buffer: GPUBuffer; offset: number };
  const at = offset + slot * selection.selectionStride * 4;
  return { buffer, offset: at, size: selection.headerWords * 4 };
}
