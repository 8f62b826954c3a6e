/**
 * Reads the queries of every layer while an engine in this isolate runs, and the keys and lists that
 * are on the device. With `random`, q, k and v are random numbers instead of the model's.
 *
 * @module
 */
import { CacheDecode } from "../../src/engine/cache_decode.ts";
import type { CacheStepsOptions } from "../../src/engine/cache_parts.ts";
import { CachePrefill } from "../../src/engine/cache_prefill.ts";
import { CacheSteps } from "../../src/engine/cache_steps.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import { Forward } from "../../src/engine/forward.ts";
import type { Submission } from "../../src/engine/submission.ts";
import { paddedCols } from "../../src/gpu/weight_layout.ts";
import { Readback } from "../../src/gpu/readback.ts";
import type { Random } from "../gpu/_rig.ts";
import { assert } from "std-testing";

/** A list of a slot, as the device has it. */
export interface DeviceLists {
  readonly prefix: number;
  readonly windowStart: number;
  readonly windowRows: number;
  /** (KV heads) positions. */
  readonly picked: readonly (readonly number[])[];
}

/** What runs meanwhile must be a single sequence, in slot 0. */
export class Capture implements Disposable {
  readonly #maxRows: number;
  readonly #undo: (() => void)[] = [];
  #forward: Forward | null = null;
  #copies: GPUBuffer | null = null;
  #states: GPUBuffer | null = null;
  #readback: Readback | null = null;

  constructor(maxRows: number, random: Random | null) {
    this.#maxRows = maxRows;
    const { create } = CacheSteps;
    const { encode } = CacheDecode.prototype;
    const { encodeObserved } = CachePrefill.prototype;
    const { encodeQkv } = Forward.prototype;
    const keep = (submission: Submission, layer: number, rows: number) =>
      this.#keep(submission, layer, rows);
    CacheSteps.create = async (options: CacheStepsOptions) => {
      this.#forward = options.forward;
      return await create(options);
    };
    CacheDecode.prototype.encode = async function (submission, layer, plan) {
      await encode.call(this, submission, layer, plan);
      keep(submission, layer, plan.numRows);
    };
    CachePrefill.prototype.encodeObserved = function (submission, slot, layer, numRows) {
      const observed = encodeObserved.call(this, submission, slot, layer, numRows);
      keep(submission, layer, numRows);
      return observed;
    };
    if (random !== null) {
      Forward.prototype.encodeQkv = function (_pass, layer) {
        if (layer > 0) return;
        // All layers of a step begin with these; each rotates them once more.
        const { qkv } = this.activations;
        this.options.kernels.device.queue.writeBuffer(qkv, 0, random.floats(qkv.size / 4, 1.5));
      };
    }
    this.#undo.push(() => {
      CacheSteps.create = create;
      CacheDecode.prototype.encode = encode;
      CachePrefill.prototype.encodeObserved = encodeObserved;
      Forward.prototype.encodeQkv = encodeQkv;
    });
  }

  get #rowBytes(): number {
    const { numHeads, numKvHeads, headDim } = this.#forward!.options.config;
    return (numHeads + 2 * numKvHeads) * headDim * 4;
  }

  #keep(submission: Submission, layer: number, rows: number): void {
    const { kernels, config } = this.#forward!.options;
    const stride = this.#maxRows * this.#rowBytes;
    this.#copies ??= kernels.storage("captured", config.numLayers * stride);
    const { qkv } = this.#forward!.activations;
    submission.copy(qkv, 0, this.#copies, layer * stride, rows * this.#rowBytes);
    const { x } = this.#forward!.activations;
    const bytes = this.#stateBytes;
    this.#states ??= kernels.storage("captured states", config.numLayers * this.#maxRows * bytes);
    submission.copy(x, 0, this.#states, layer * this.#maxRows * bytes, rows * bytes);
  }

  get #stateBytes(): number {
    return paddedCols(this.#forward!.options.config.hiddenSize) * 4;
  }

  /** What entered a layer, of a row of the newest step. */
  async hidden(parts: EngineParts, layer: number, row: number): Promise<Float32Array> {
    const at = (layer * this.#maxRows + row) * this.#stateBytes;
    const { hiddenSize } = this.#forward!.options.config;
    return new Float32Array(await this.#read(parts, this.#states!, at, hiddenSize * 4));
  }

  async #read({ device }: EngineParts, buffer: GPUBuffer, offset = 0, size = buffer.size) {
    this.#readback ??= await Readback.create(device, 2 ** 22);
    return (await this.#readback.copyAndRead(buffer, offset, size)).slice().buffer;
  }

  /** Queries of a row of the newest step: (KV heads, group, head size). */
  async queries(parts: EngineParts, layer: number, row: number): Promise<number[][][]> {
    const { numHeads, numKvHeads, headDim } = this.#forward!.options.config;
    const at = (layer * this.#maxRows + row) * this.#rowBytes;
    const bytes = await this.#read(parts, this.#copies!, at, numHeads * headDim * 4);
    const group = numHeads / numKvHeads;
    return Array.from(
      { length: numKvHeads },
      (_, h) =>
        Array.from(
          { length: group },
          (_, g) => Array.from(new Float32Array(bytes, (h * group + g) * headDim * 4, headDim)),
        ),
    );
  }

  /** Keys of the first `n` rows of slot 0: (KV heads, n, head size). */
  async keys(parts: EngineParts, layer: number, n: number): Promise<number[][][]> {
    const { kv, config: { numKvHeads, headDim } } = this.#forward!.options;
    const table = kv.table(layer) as { buffer: GPUBuffer; offset: number };
    const pages = new Uint32Array(
      await this.#read(parts, table.buffer, table.offset, kv.maxPages * 4),
    );
    const values = new Float32Array(await this.#read(parts, kv.keys(layer)));
    return Array.from({ length: numKvHeads }, (_, h) =>
      Array.from({ length: n }, (_, p) => {
        const page = pages[Math.floor(p / 32)]!;
        const at = ((page * numKvHeads + h) * 32 + p % 32) * headDim;
        return Array.from(values.subarray(at, at + headDim));
      }));
  }

  /** What slot 0 has in a layer; null where it attends to everything. */
  async lists(parts: EngineParts, layer: number): Promise<DeviceLists | null> {
    const { selection } = parts.runner;
    assert.ok(selection !== null);
    const { numKvHeads, listCapacity } = selection.sizes;
    const words = async ({ buffer, offset }: { buffer: GPUBuffer; offset: number }, n: number) =>
      new Uint32Array(await this.#read(parts, buffer, offset, n * 4));
    const part = selection.selection(layer) as { buffer: GPUBuffer; offset: number };
    const header = await words(part, selection.headerWords);
    const [mode, prefix, windowStart, windowRows] = header;
    if (mode === 0) return null;
    const counts = header.subarray(4, 4 + numKvHeads);
    assert.deepEqual(await words(selection.counts(layer), numKvHeads), counts);
    const rows = await words(selection.picked(layer), numKvHeads * listCapacity);
    const picked = Array.from(
      counts,
      (count, h) => Array.from(rows.subarray(h * listCapacity, h * listCapacity + count)),
    );
    return { prefix: prefix!, windowStart: windowStart!, windowRows: windowRows!, picked };
  }

  [Symbol.dispose](): void {
    for (const undo of this.#undo) undo();
    this.#copies?.destroy();
    this.#states?.destroy();
    this.#readback?.[Symbol.dispose]();
  }
}
