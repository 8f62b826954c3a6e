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

/** Rows of a batch that belong to one layer. */
interface Run {
  readonly layer: number;
  readonly first: number;
  count: number;
}

/**
 * Gathers rows in host memory and scatters them on the device: however many layers they are of, one
 * write carries them, and each layer has one dispatch.
 */
export class RowFetcher {
  /** Bytes of keys and values of a row of one KV head. */
  readonly rowBytes: number;
  /** Rows that were asked of the store so far, and the milliseconds of getting and sending them. */
  readonly work = { rows: 0, ms: 0 };
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
  /** Bytes from a run's place in the step's uniform to the next one's. */
  readonly #stepStride: number;
  readonly #stepWords: Uint32Array<ArrayBuffer>;
  #count = 0;
  #runs: Run[] = [];

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
    const unit = kernels.caps.uniformAlignment;
    this.#stepStride = Math.ceil(STEP_PARAMS.size / unit) * unit;
    this.#stepWords = new Uint32Array(numLayers * this.#stepStride / 4);
    this.#step = kernels.uniform("kv copy step", this.#stepWords);
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
   * Fetches rows of one KV head of a layer. They are on their way after {@linkcode send}; those of
   * one layer should be added together.
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
    this.work.rows += positions.length;
    for (let from = 0; from < positions.length;) {
      if (!this.#hasRoom(layer)) this.send(sink);
      const count = Math.min(positions.length - from, this.#capacity - this.#count);
      const at = this.#count * this.rowBytes;
      this.#timed(() => stored.gather(layer, kvHead, positions, from, count, this.#bytes, at));
      for (let i = 0; i < count; i++) {
        this.#targetWords[(this.#count + i) * 2] = targets[from + i]!;
        this.#targetWords[(this.#count + i) * 2 + 1] = kvHead;
      }
      this.#run(layer).count += count;
      this.#count += count;
      from += count;
    }
  }

  #hasRoom(layer: number): boolean {
    if (this.#count === this.#capacity) return false;
    return this.#runs.at(-1)?.layer === layer || this.#runs.length < this.#options.numLayers;
  }

  #run(layer: number): Run {
    const last = this.#runs.at(-1);
    if (last?.layer === layer) return last;
    const run = { layer, first: this.#count, count: 0 };
    this.#runs.push(run);
    return run;
  }

  /** Forgets what was added: of a step that was given up. */
  drop(): void {
    this.#count = 0;
    this.#runs = [];
  }

  /** Sends what was added, after what was encoded so far. */
  send(sink: PassSink): void {
    const count = this.#count;
    if (count === 0) return;
    const runs = this.#runs;
    this.#count = 0;
    this.#runs = [];
    runs.forEach(({ first, count }, index) =>
      this.#stepWords.set(
        STEP_PARAMS.pack({ num_rows: count, first_row: first, num_splits: 1, logits_row: 0 }),
        index * this.#stepStride / 4,
      )
    );
    const { kernels: { device: { queue } }, kv } = this.#options;
    sink.submit();
    this.#timed(() => queue.writeBuffer(this.#source, 0, this.#bytes, 0, count * this.rowBytes));
    kv.traffic.came += count * this.rowBytes;
    queue.writeBuffer(this.#targets, 0, this.#targetWords, 0, count * 2);
    queue.writeBuffer(this.#step, 0, this.#stepWords, 0, runs.length * this.#stepStride / 4);
    runs.forEach(({ layer, count }, index) => {
      const workgroups = kvCopyWorkgroups(this.#variant, count);
      const offset = index * this.#stepStride;
      dispatch(sink.pass, this.#kernel, this.#groups[layer]!, workgroups, offset);
    });
  }

  #timed(work: () => void): void {
    const began = performance.now();
    try {
      work();
    } finally {
      this.work.ms += performance.now() - began;
    }
  }

  [Symbol.dispose](): void {
    for (const buffer of [this.#source, this.#targets, this.#params, this.#step]) buffer.destroy();
  }
}
