/**
 * What the frozen model computed, on disk: for windows of text the hidden states and queries of some
 * rows and the keys of all, so that the model runs once and a predictor is trained many times over.
 *
 * A file is a header (8 bytes of length, JSON, blanks up to 4,096 bytes) and one record a window, all
 * of the same size, each with a CRC-32: a file that was cut short has fewer windows, and a training
 * goes on after the last whole one.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { z } from "zod";
import type { PredictedModel } from "../butler/predictor/shape.ts";
import { type ProducerPlace, producersOf } from "../butler/predictor/shape.ts";
import { TrainError } from "./errors.ts";

const HEADER_BYTES = 4096;
const FORMAT = "tokenbutler-capture-1";

/** Sizes of a capture. */
export interface CaptureShape {
  readonly model: PredictedModel;
  /** Layers from one producer to the next. */
  readonly stride: number;
  /** Tokens of a window. */
  readonly tokens: number;
  /** Rows of a window whose queries are kept. */
  readonly rows: number;
}

/** Everything that decides what is in a file. */
export interface CaptureOrigin {
  readonly shape: CaptureShape;
  /** SHA-256 of the token ids of all windows and of which rows are kept. */
  readonly content: string;
}

/** What one producer and its layers need of a window. */
export interface ProducerWindow {
  /** (rows) positions, rising */
  readonly positions: Uint32Array;
  /** (rows, hidden size): the residual stream that enters the producer's layer */
  readonly hidden: Float32Array<ArrayBuffer>;
  /** (layers served, heads, rows, head size): queries after RoPE */
  readonly queries: Float32Array<ArrayBuffer>;
  /** (layers served, KV heads, tokens, head size): keys after RoPE */
  readonly keys: Float32Array<ArrayBuffer>;
}

/** Bytes of the parts of one producer in a record. */
interface Part {
  readonly place: ProducerPlace;
  readonly hidden: number;
  readonly queries: number;
  readonly keys: number;
  readonly end: number;
}

/** Where things lie in a record. */
export class CaptureLayout {
  readonly parts: readonly Part[];
  /** Bytes of a record, its checksum included. */
  readonly recordBytes: number;

  constructor(readonly shape: CaptureShape) {
    const { model, tokens, rows } = shape;
    let at = rows * 4;
    this.parts = producersOf({ model, stride: shape.stride, inner: 1 }).map((place) => {
      const hidden = at;
      const queries = hidden + rows * model.hiddenSize * 4;
      const keys = queries + place.count * model.numHeads * rows * model.headDim * 2;
      at = keys + place.count * model.numKvHeads * tokens * model.headDim * 2;
      // f32 of the next part lie at multiples of four.
      const end = at;
      at = Math.ceil(at / 4) * 4;
      return { place, hidden, queries, keys, end };
    });
    this.recordBytes = at + 8;
  }

  /** Bytes of a file with so many windows: where the next one begins. */
  fileBytes(windows: number): number {
    return HEADER_BYTES + windows * this.recordBytes;
  }
}

/** A capture on disk, being written or read. */
export class CaptureFile implements Disposable {
  readonly layout: CaptureLayout;
  #windows: number;

  private constructor(
    readonly path: string,
    readonly origin: CaptureOrigin,
    readonly file: Deno.FsFile,
    windows: number,
  ) {
    this.layout = new CaptureLayout(origin.shape);
    this.#windows = windows;
  }

  /** Whole windows in the file. */
  get windows(): number {
    return this.#windows;
  }

  /**
   * Opens a file to go on with, or begins one.
   *
   * @throws {TrainError} `not_writable`; `wrong_run` if the file there is of something else.
   */
  static open(path: string, origin: CaptureOrigin): CaptureFile {
    const file = openForWriting(path);
    try {
      const { size } = file.statSync();
      if (size < HEADER_BYTES) {
        file.truncateSync(0);
        writeAll(path, file, headerOf(origin), 0);
        return new CaptureFile(path, origin, file, 0);
      }
      const found = readHeader(path, file);
      if (JSON.stringify(found) !== JSON.stringify(origin)) {
        throw new TrainError(
          "wrong_run",
          `${path} was captured for another model, other text or other settings: delete it, or ` +
            "name another folder with --cache",
        );
      }
      const { recordBytes } = new CaptureLayout(origin.shape);
      return new CaptureFile(path, origin, file, Math.floor((size - HEADER_BYTES) / recordBytes));
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * Adds a window.
   *
   * @param record As {@linkcode CaptureLayout} says; its checksum is filled in.
   * @throws {TrainError} `not_writable`, for a full disk too: what was there stays whole.
   */
  append(record: Uint8Array<ArrayBuffer>): void {
    const { recordBytes } = this.layout;
    if (record.length !== recordBytes) throw new RangeError(`a record has ${recordBytes} bytes`);
    const view = new DataView(record.buffer, record.byteOffset);
    view.setUint32(recordBytes - 8, crc32(record.subarray(0, recordBytes - 8)), true);
    writeAll(this.path, this.file, record, this.layout.fileBytes(this.#windows));
    this.#windows++;
  }

  /**
   * Whether a window is as it was written.
   *
   * @returns False for a damaged one, which has to be captured again with all after it.
   */
  check(window: number): boolean {
    const { recordBytes } = this.layout;
    const record = this.#read(window, 0, recordBytes);
    const stored = new DataView(record.buffer).getUint32(recordBytes - 8, true);
    return crc32(record.subarray(0, recordBytes - 8)) === stored;
  }

  /** Keeps only the first windows. */
  truncate(windows: number): void {
    this.file.truncateSync(this.layout.fileBytes(windows));
    this.#windows = windows;
  }

  /**
   * Reads what a producer needs of a window.
   *
   * @throws {TrainError} `damaged` if the file ends early.
   */
  read(window: number, producer: number): ProducerWindow {
    const { rows } = this.origin.shape;
    const { hidden, queries, keys, end } = this.layout.parts[producer]!;
    const bytes = this.#read(window, hidden, end).buffer;
    const half = (from: number, to: number) =>
      Float32Array.from(new Float16Array(bytes, from - hidden, (to - from) / 2));
    return {
      positions: new Uint32Array(this.#read(window, 0, rows * 4).buffer),
      hidden: new Float32Array(bytes, 0, (queries - hidden) / 4).slice(),
      queries: half(queries, keys),
      keys: half(keys, end),
    };
  }

  #read(window: number, from: number, to: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(to - from);
    this.file.seekSync(this.layout.fileBytes(window) + from, Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) {
      const count = this.file.readSync(bytes.subarray(at));
      if (count === null) {
        throw new TrainError(
          "damaged",
          `${this.path} ends in the middle of window ${window}: delete it and start again`,
        );
      }
      at += count;
    }
    return bytes;
  }

  [Symbol.dispose](): void {
    this.file.close();
  }
}

const headerSchema = z.object({
  format: z.literal(FORMAT),
  shape: z.object({
    model: z.object({
      fingerprint: z.string(),
      numLayers: z.int(),
      hiddenSize: z.int(),
      numHeads: z.int(),
      numKvHeads: z.int(),
      headDim: z.int(),
    }),
    stride: z.int(),
    tokens: z.int(),
    rows: z.int(),
  }),
  content: z.string(),
});

function headerOf(origin: CaptureOrigin): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(JSON.stringify({ format: FORMAT, ...origin }));
  const bytes = new Uint8Array(HEADER_BYTES).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

function readHeader(path: string, file: Deno.FsFile): CaptureOrigin {
  const bytes = new Uint8Array(HEADER_BYTES);
  file.seekSync(0, Deno.SeekMode.Start);
  let at = 0;
  while (at < bytes.length) at += file.readSync(bytes.subarray(at)) ?? HEADER_BYTES;
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  try {
    const text = new TextDecoder().decode(bytes.subarray(8, 8 + length));
    const { shape, content } = headerSchema.parse(JSON.parse(text));
    return { shape, content };
  } catch (error) {
    throw new TrainError(
      "wrong_run",
      `${path} is no capture: delete it, or name another folder with --cache`,
      { cause: error },
    );
  }
}

function openForWriting(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path, { read: true, write: true, create: true });
  } catch (error) {
    throw notWritable(path, error);
  }
}

function writeAll(path: string, file: Deno.FsFile, bytes: Uint8Array, at: number): void {
  try {
    file.seekSync(at, Deno.SeekMode.Start);
    for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
  } catch (error) {
    throw notWritable(path, error);
  }
}

function notWritable(path: string, error: unknown): TrainError {
  const why = error instanceof Error ? error.message : String(error);
  return new TrainError(
    "not_writable",
    `cannot write ${path}: ${why}. Name a folder that can be written, with room, with --cache`,
    { cause: error },
  );
}
