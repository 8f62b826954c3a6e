/** Brings single rows from the store into the slabs, many at once. @module */
import { dispatch, type Kernel, type Kernels } from "../gpu/kernels.ts";
import {
  KV_COPY_PARAMS,
  kvCopySpec,
  type KvCopyVariant,
  kvCopyWorkgroups,
  packedRowBytes,
} from "../gpu/ops/kv_copy.ts";
import { STEP_PARAMS } from "../gpu/step_params.ts";
import type { DeviceTier } from "./device_tier.ts";
import { BLOCK_ROWS } from "./slab_pool.ts";
import type { StoredSequence } from "./store/types.ts";

/** Sizes of a {@linkcode RowFetcher}. */
export interface RowFetcherOptions {
  readonly kernels: Kernels;
  readonly kv: DeviceTier;
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly kvType: "f16" | "f32";
  readonly lanes: number;
}

/** Bytes of rows that are sent together. */
export const FETCH_BYTES = 4 * 2 ** 20;

/** Where encoded work goes; see `Submission`. */
export interface PassSink {
  readonly pass: GPUComputePassEncoder;
  submit(): void;
}

/** Gathers rows in host memory and scatters them on the device. */
export class RowFetcher {
  /** Bytes of keys and values of a row of one KV head. */
  readonly rowBytes: number;
  readonly #options: RowFetcherOptions;
  readonly #variant: KvCopyVariant;
  readonly #kernel: Kernel;
  readonly #capacity: number;
  readonly #source: GPUBuffer;
  readonly #targets: GPUBuffer;
  readonly #params: GPUBuffer;
  readonly #step: GPUBuffer;
  readonly #groups: readonly GPUBindGroup[];
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #targetWords: Uint32Array<ArrayBuffer>;
  #count = 0;

  private constructor(options: RowFetcherOptions, variant: KvCopyVariant, kernel: Kernel) {
    const { kernels, kv, numLayers, numKvHeads } = options;
    this.#options = options;
    this.#variant = variant;
    this.#kernel = kernel;
    this.rowBytes = packedRowBytes(options.headDim, options.kvType);
    this.#capacity = Math.floor(FETCH_BYTES / this.rowBytes);
    this.#bytes = new Uint8Array(this.#capacity * this.rowBytes);
    this.#targetWords = new Uint32Array(this.#capacity * 2);
    this.#source = kernels.storage("fetched rows", this.#bytes.length);
    this.#targets = kernels.storage("fetched places", this.#targetWords.byteLength);
    this.#params = kernels.uniform("kv copy", KV_COPY_PARAMS.pack({ num_kv_heads: numKvHeads }));
    this.#step = kernels.uniform("kv copy step", this.#stepWords(0));
    const step = { buffer: this.#step, offset: 0, size: STEP_PARAMS.size };
    this.#groups = Array.from({ length: numLayers }, (_, layer) =>
      kernels.bind(kernel, [
        this.#source,
        this.#targets,
        kv.keys(layer),
        kv.values(layer),
        this.#params,
        step,
      ]));
  }

  static async create(options: RowFetcherOptions): Promise<RowFetcher> {
    const { kernels, headDim, kvType, lanes } = options;
    const variant: KvCopyVariant = {
      direction: "scatter",
      headDim,
      kvType,
      pageSize: BLOCK_ROWS,
      lanes,
      spread: kernels.caps.software ? "rows" : "words",
    };
    return new RowFetcher(options, variant, await kernels.compile(kvCopySpec(variant)));
  }

  /**
   * Fetches rows of one KV head of a layer. They are on their way after {@linkcode send}.
   *
   * @param positions Ascending; `targets` are the device rows that they go to.
   * @throws {StoreReadError} If a row cannot be read. None of these rows is sent then.
   */
  add(
    sink: PassSink,
    stored: StoredSequence,
    layer: number,
    kvHead: number,
    positions: Uint32Array,
    targets: Uint32Array,
  ): void {
    for (let from = 0; from < positions.length;) {
      if (this.#count === this.#capacity) this.send(sink, layer);
      const count = Math.min(positions.length - from, this.#capacity - this.#count);
      const at = this.#count * this.rowBytes;
      stored.gather(layer, kvHead, positions, from, count, this.#bytes, at);
      for (let i = 0; i < count; i++) {
        this.#targetWords[(this.#count + i) * 2] = targets[from + i]!;
        this.#targetWords[(this.#count + i) * 2 + 1] = kvHead;
      }
      this.#count += count;
      from += count;
    }
  }

  /** Forgets what was added: of a step that was given up. */
  drop(): void {
    this.#count = 0;
  }

  /** Sends what was added; all of it is of this layer. Nothing may be encoded before but submitted. */
  send(sink: PassSink, layer: number): void {
    const count = this.#count;
    if (count === 0) return;
    this.#count = 0;
    const { queue } = this.#options.kernels.device;
    sink.submit();
    queue.writeBuffer(this.#source, 0, this.#bytes, 0, count * this.rowBytes);
    queue.writeBuffer(this.#targets, 0, this.#targetWords, 0, count * 2);
    queue.writeBuffer(this.#step, 0, this.#stepWords(count));
    const workgroups = kvCopyWorkgroups(this.#variant, count);
    dispatch(sink.pass, this.#kernel, this.#groups[layer]!, workgroups, 0);
  }

  #stepWords(numRows: number): Uint32Array<ArrayBuffer> {
    return STEP_PARAMS.pack({ num_rows: numRows, first_row: 0, num_splits: 1, logits_row: 0 });
  }

  [Symbol.dispose](): void {
    for (const buffer of [this.#source, this.#targets, this.#params, this.#step]) buffer.destroy();
  }
}
