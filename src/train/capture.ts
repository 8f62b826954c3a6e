/** Runs windows of text through the frozen model and keeps what a predictor is trained on. @module */
import { MOST_KEY_ROWS, openKeys, readKeys } from "../butler/calibration/read_keys.ts";
import type { EngineParts } from "../engine/create.ts";
import type { PrefillObserver } from "../engine/observer.ts";
import type { Submission } from "../engine/submission.ts";
import { Readback } from "../gpu/readback.ts";
import { paddedCols } from "../gpu/weight_layout.ts";
import type { CaptureFile, CaptureLayout, CaptureShape } from "./capture_file.ts";

/** The one slot that is used. */
const SLOT = 0;

/** A window of text. */
export interface CaptureWindow {
  /** (tokens) */
  readonly ids: readonly number[];
  /** (rows) positions whose queries are kept, rising */
  readonly positions: readonly number[];
}

/** What a capture works with. */
export interface CaptureRun {
  /** An engine in this isolate with one sequence at least; nothing else may use it. */
  readonly parts: EngineParts;
  readonly file: CaptureFile;
  readonly windows: readonly CaptureWindow[];
  /** Tokens of a prefill chunk. */
  readonly chunk: number;
  /** Told how many windows are done. */
  readonly onProgress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Adds the windows that a file lacks.
 *
 * @throws {TrainError} `not_writable`.
 */
export async function capture(run: CaptureRun): Promise<void> {
  const { parts, file, windows, chunk } = run;
  const { shape } = file.origin;
  using keys = await openKeys(parts, shape.model);
  using rows = await RowCopies.create(parts, shape);
  parts.runner.steps.observer = rows;
  try {
    while (file.windows < windows.length) {
      if (run.signal?.aborted) return;
      const { ids, positions } = windows[file.windows]!;
      parts.kv.reserve(SLOT, ids.length);
      try {
        for (let start = 0; start < ids.length; start += chunk) {
          const tokens = ids.slice(start, start + chunk);
          rows.beginChunk(positions, start, tokens.length);
          await parts.runner.prefill({ slot: SLOT, start, tokens, sample: null, scoring: null });
        }
        const record = new Uint8Array(file.layout.recordBytes);
        new Uint32Array(record.buffer, 0, positions.length).set(positions);
        await rows.read(file.layout, record);
        const read = (layer: number, first: number, count: number) =>
          readKeys(keys, SLOT, layer, first, count);
        await fillKeys(file.layout, record, read);
        file.append(record);
      } finally {
        parts.kv.release(SLOT);
      }
      run.onProgress?.(file.windows);
    }
  } finally {
    parts.runner.steps.observer = null;
  }
}

async function fillKeys(
  { shape, parts }: CaptureLayout,
  record: Uint8Array<ArrayBuffer>,
  read: (layer: number, first: number, count: number) => Promise<Float32Array>,
): Promise<void> {
  const { tokens, model: { numKvHeads, headDim } } = shape;
  for (const { place, keys } of parts) {
    for (let served = 0; served < place.count; served++) {
      for (let first = 0; first < tokens; first += MOST_KEY_ROWS) {
        const count = Math.min(MOST_KEY_ROWS, tokens - first);
        const values = await read(place.first + served, first, count);
        for (let head = 0; head < numKvHeads; head++) {
          const at = ((served * numKvHeads + head) * tokens + first) * headDim;
          new Float16Array(record.buffer, keys + at * 2, count * headDim)
            .set(values.subarray(head * count * headDim, (head + 1) * count * headDim));
        }
      }
    }
  }
}

/** Copies of the hidden states and queries of a window's rows, on the device. */
class RowCopies implements PrefillObserver, Disposable {
  readonly #producers: ReadonlyMap<number, number>;
  /** Neighbouring rows of the chunk: first row there, first row here, count. */
  #runs: (readonly [from: number, to: number, count: number])[] = [];

  private constructor(
    readonly parts: EngineParts,
    readonly shape: CaptureShape,
    /** (producers, rows, padded hidden size) f32 */
    readonly hidden: GPUBuffer,
    /** (layers, rows, heads, head size) f32 */
    readonly queries: GPUBuffer,
    readonly readback: Readback,
  ) {
    const { model, stride } = shape;
    const layers = Array.from({ length: model.numLayers }, (_, layer) => layer)
      .filter((layer) => layer % stride === 0 && layer + 1 < model.numLayers);
    this.#producers = new Map(layers.map((layer, index) => [layer, index]));
  }

  static async create(parts: EngineParts, shape: CaptureShape): Promise<RowCopies> {
    const { model, rows, stride } = shape;
    const producers = Math.ceil((model.numLayers - 1) / stride);
    const make = (label: string, size: number) =>
      parts.device.createBuffer({
        label,
        size,
        usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      });
    const hidden = producers * rows * paddedCols(model.hiddenSize) * 4;
    const queries = model.numLayers * rows * model.numHeads * model.headDim * 4;
    const readback = await Readback.create(parts.device, Math.max(hidden, queries));
    return new RowCopies(
      parts,
      shape,
      make("captured states", hidden),
      make("captured queries", queries),
      readback,
    );
  }

  /** The rows of the next chunk. */
  beginChunk(positions: readonly number[], start: number, count: number): void {
    this.#runs = [];
    positions.forEach((position, row) => {
      if (position < start || position >= start + count) return;
      const last = this.#runs.at(-1);
      if (last !== undefined && last[0] + last[2] === position - start) {
        this.#runs[this.#runs.length - 1] = [last[0], last[1], last[2] + 1];
      } else this.#runs.push([position - start, row, 1]);
    });
  }

  entering(submission: Submission, layer: number): void {
    const index = this.#producers.get(layer);
    if (index === undefined) return;
    const { x } = this.parts.runner.activations;
    const bytes = paddedCols(this.shape.model.hiddenSize) * 4;
    for (const [from, to, count] of this.#runs) {
      const target = (index * this.shape.rows + to) * bytes;
      submission.copy(x, from * bytes, this.hidden, target, count * bytes);
    }
  }

  rotated(submission: Submission, layer: number): void {
    const { qkv } = this.parts.runner.activations;
    const { numHeads, numKvHeads, headDim } = this.shape.model;
    const bytes = numHeads * headDim * 4;
    const stride = (numHeads + 2 * numKvHeads) * headDim * 4;
    for (const [from, to, count] of this.#runs) {
      for (let i = 0; i < count; i++) {
        const target = (layer * this.shape.rows + to + i) * bytes;
        submission.copy(qkv, (from + i) * stride, this.queries, target, bytes);
      }
    }
  }

  /** Puts what was copied in a record. */
  async read(layout: CaptureLayout, record: Uint8Array<ArrayBuffer>): Promise<void> {
    const { rows, model: { hiddenSize, numHeads, headDim } } = this.shape;
    const padded = paddedCols(hiddenSize);
    const states = await this.#floats(this.hidden);
    for (const { place, hidden } of layout.parts) {
      const target = new Float32Array(record.buffer, hidden, rows * hiddenSize);
      for (let row = 0; row < rows; row++) {
        const from = (place.index * rows + row) * padded;
        target.set(states.subarray(from, from + hiddenSize), row * hiddenSize);
      }
    }
    const all = await this.#floats(this.queries);
    for (const { place, queries } of layout.parts) {
      const size = place.count * numHeads * rows * headDim;
      const target = new Float16Array(record.buffer, queries, size);
      for (let served = 0; served < place.count; served++) {
        for (let row = 0; row < rows; row++) {
          for (let head = 0; head < numHeads; head++) {
            const from = (((place.first + served) * rows + row) * numHeads + head) * headDim;
            const to = ((served * numHeads + head) * rows + row) * headDim;
            target.set(all.subarray(from, from + headDim), to);
          }
        }
      }
    }
  }

  async #floats(buffer: GPUBuffer): Promise<Float32Array<ArrayBuffer>> {
    const bytes = await this.readback.copyAndRead(buffer, 0, buffer.size);
    return new Float32Array(bytes.slice().buffer);
  }

  [Symbol.dispose](): void {
    this.hidden.destroy();
    this.queries.destroy();
    this.readback[Symbol.dispose]();
  }
}
