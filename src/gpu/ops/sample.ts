/**
 * Host partner of `shaders/sample_*.wgsl`: chooses the next token of each row of logits on the
 * device and reports log-probabilities.
 *
 * A step takes two dispatches: a scan that cuts each row into pieces, and a pick with one workgroup
 * a row. Rows with adjustments add two: the logits are changed in place, scanned again, and put
 * back by the pick, so that the caller's logits are as they were. The random number is worked out
 * here, so that it is the same on every adapter.
 *
 * @module
 */
import type { Sampled, SampleSpec } from "../../engine/runner_types.ts";
import { MAX_TOP_LOGPROBS } from "../../engine/types.ts";
import { type BufferPart, dispatch, type Kernel, type Kernels } from "../kernels.ts";
import { uniformOf } from "./philox.ts";
import {
  HEADER_WORDS,
  RESULT_WORDS,
  sampleKernels,
  SampleParams,
  SampleRowParams,
  type SampleVariant,
  selectSampleVariant,
} from "./sample_variant.ts";

/** One row of logits and what is to be done with it. */
export interface SampleRow {
  /** Index into `lastTokens` that the token is written to; -1 writes none. */
  readonly slot: number;
  readonly spec: SampleSpec;
}

/** What a sampler works on. The buffers stay the caller's. */
export interface SamplerOptions {
  readonly vocabSize: number;
  /** Rows of logits at most. */
  readonly maxRows: number;
  /** (maxRows, vocabSize) f32. Bound for writing; unchanged once a step is done. */
  readonly logits: BufferPart;
  /** (slots) u32. */
  readonly lastTokens: BufferPart;
  /** Of {@linkcode selectSampleVariant}. */
  readonly overrides?: Readonly<Record<string, string>>;
}

/** Reported where a probability is next to nothing; plain -Infinity is not JSON. */
export const LEAST_LOGPROB = -9999;

const NOWHERE = 0xffffffff;
const ROW_WORDS = SampleRowParams.size / 4;
const ENTRY_WORDS = 4;
/** Logits are clamped to this on the device; as an adjustment it bans. */
const BANNED = -1e30;
/** Temperatures below the inverse of this are treated as this. */
const MAX_INVERSE_TEMPERATURE = 1e6;

/** Bits of {@linkcode SampleRowParams}. */
const MAXIMUM = 1;
const RAW_SUM = 2;
const TEMPERED_SUM = 4;
const TOP_K = 1;
const TYPICAL = 2;
const TOP_P = 4;
const MIN_P = 8;

interface CompiledKernels {
  readonly scan: Kernel;
  readonly adjust: Kernel;
  readonly pickPlain: Kernel;
  readonly pickFiltered: Kernel;
}

interface AdjustBuffers {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly floats: Float32Array<ArrayBuffer>;
  readonly buffer: GPUBuffer;
  readonly adjust: GPUBindGroup;
  readonly pickPlain: GPUBindGroup;
  readonly pickFiltered: GPUBindGroup;
}

/** Chooses tokens on the device. */
export class Sampler {
  /** Results, `bytesPerRow` for each row; the caller copies them out and hands them to `parse`. */
  readonly results: GPUBuffer;
  readonly bytesPerRow = RESULT_WORDS * 4;

  readonly #kernels: Kernels;
  readonly #compiled: CompiledKernels;
  readonly #options: SamplerOptions;
  readonly #rows: GPUBuffer;
  readonly #stats: GPUBuffer;
  readonly #list: GPUBuffer;
  readonly #params: readonly [GPUBuffer, GPUBuffer];
  readonly #scan: readonly [GPUBindGroup, GPUBindGroup];
  readonly #rowWords: Uint32Array<ArrayBuffer>;
  readonly #splits: number;
  #adjusting: AdjustBuffers;

  // What `prepare` found that the rows need.
  #numRows = 0;
  #scans = false;
  #adjusts = false;
  #filters = false;

  /**
   * Compiles the kernels and makes the buffers.
   *
   * @throws {DeviceError} If a kernel does not compile, a buffer is too large or an override makes no
   * sense.
   * @throws {RangeError} On sizes that make no sense.
   */
  static async create(kernels: Kernels, options: SamplerOptions): Promise<Sampler> {
    const variant = selectSampleVariant(kernels.caps, options.vocabSize, options.overrides);
    const specs = sampleKernels(variant);
    return new Sampler(kernels, options, variant, {
      scan: await kernels.compile(specs.scan),
      adjust: await kernels.compile(specs.adjust),
      pickPlain: await kernels.compile(specs.pickPlain),
      pickFiltered: await kernels.compile(specs.pickFiltered),
    });
  }

  private constructor(
    kernels: Kernels,
    options: SamplerOptions,
    variant: SampleVariant,
    compiled: CompiledKernels,
  ) {
    const { vocabSize, maxRows } = options;
    if (!(vocabSize >= 1 && vocabSize < 2 ** 24 && maxRows >= 1)) {
      throw new RangeError(`cannot sample ${maxRows} rows of ${vocabSize} logits`);
    }
    this.#kernels = kernels;
    this.#options = options;
    this.#compiled = compiled;
    this.#splits = variant.splits;
    // A list that is not much shorter than the row would gain nothing.
    const listCapacity = Math.max(256, Math.ceil(vocabSize / 8));
    const params = {
      vocab: vocabSize,
      piece: Math.ceil(vocabSize / variant.splits),
      list_capacity: listCapacity,
      num_rows_max: maxRows,
    };
    this.#params = [
      kernels.uniform("sample params raw", SampleParams.pack({ ...params, phase: 0 })),
      kernels.uniform("sample params adjusted", SampleParams.pack({ ...params, phase: 1 })),
    ];
    this.#rows = kernels.storage("sample rows", maxRows * SampleRowParams.size);
    this.#stats = kernels.storage("sample stats", 2 * maxRows * variant.splits * 16);
    this.#list = kernels.storage("sample list", maxRows * listCapacity * 4);
    this.results = kernels.storage("sample results", maxRows * this.bytesPerRow);
    this.#rowWords = new Uint32Array(maxRows * ROW_WORDS);
    const scan = (phase: 0 | 1) =>
      kernels.bind(compiled.scan, [this.#rows, options.logits, this.#stats, this.#params[phase]]);
    this.#scan = [scan(0), scan(1)];
    this.#adjusting = this.#makeAdjustBuffers(maxRows * 128);
  }

  #makeAdjustBuffers(entries: number): AdjustBuffers {
    const kernels = this.#kernels;
    const buffer = kernels.storage("sample adjustments", entries * ENTRY_WORDS * 4);
    const { logits, lastTokens } = this.#options;
    const params = this.#params[0];
    const pick = (kernel: Kernel) =>
      kernels.bind(kernel, [
        this.#rows,
        buffer,
        logits,
        this.#stats,
        this.#list,
        this.results,
        lastTokens,
        params,
      ]);
    const words = new Uint32Array(entries * ENTRY_WORDS);
    return {
      words,
      floats: new Float32Array(words.buffer),
      buffer,
      adjust: kernels.bind(this.#compiled.adjust, [this.#rows, buffer, logits, params]),
      pickPlain: pick(this.#compiled.pickPlain),
      pickFiltered: pick(this.#compiled.pickFiltered),
    };
  }

  /**
   * Uploads what the rows ask for; row r samples from row r of the logits. One call a submission:
   * uploads come before everything that is submitted after them.
   *
   * @throws {RangeError} On too many rows, or a token or number of alternatives out of range.
   */
  prepare(rows: readonly SampleRow[]): void {
    const { maxRows } = this.#options;
    if (rows.length > maxRows) {
      throw new RangeError(`${rows.length} rows to sample, at most ${maxRows}`);
    }
    let entries = 0;
    for (const row of rows) {
      if (row.spec.forced === null) entries += row.spec.adjustments.length;
    }
    this.#reserve(entries);
    this.#numRows = rows.length;
    this.#scans = false;
    this.#adjusts = entries > 0;
    this.#filters = false;
    let first = 0;
    rows.forEach((row, index) => {
      const packed = this.#pack(row, first);
      this.#rowWords.set(packed, index * ROW_WORDS);
      if (row.spec.forced === null) first = this.#packAdjustments(row.spec, first);
    });
    const queue = this.#kernels.device.queue;
    queue.writeBuffer(this.#rows, 0, this.#rowWords, 0, rows.length * ROW_WORDS);
    if (entries > 0) {
      const { buffer, words } = this.#adjusting;
      queue.writeBuffer(buffer, 0, words, 0, entries * ENTRY_WORDS);
    }
  }

  #reserve(entries: number): void {
    const old = this.#adjusting;
    if (entries * ENTRY_WORDS <= old.words.length) return;
    this.#adjusting = this.#makeAdjustBuffers(2 ** Math.ceil(Math.log2(entries)));
    old.buffer.destroy();
  }

  #pack({ slot, spec }: SampleRow, adjustFirst: number): Uint32Array<ArrayBuffer> {
    const vocab = this.#options.vocabSize;
    const { forced, logprobs } = spec;
    if (forced !== null) this.#checkId(forced);
    if (logprobs !== null && !(logprobs >= 0 && logprobs <= MAX_TOP_LOGPROBS)) {
      throw new RangeError(`${logprobs} alternatives, at most ${MAX_TOP_LOGPROBS}`);
    }
    const draws = forced === null && spec.temperature > 0;
    const adjustCount = forced === null ? spec.adjustments.length : 0;
    const filters = !draws ? 0 : (spec.topK > 0 && spec.topK < vocab ? TOP_K : 0) |
      (spec.typicalP < 1 ? TYPICAL : 0) | (spec.topP < 1 ? TOP_P : 0) |
      (spec.minP > 0 ? MIN_P : 0);
    // The pick starts from the scan's maximum; a draw with no filter also from its sums.
    const forPick = forced !== null ? 0 : MAXIMUM | (draws && filters === 0 ? TEMPERED_SUM : 0);
    const forReport = logprobs !== null ? MAXIMUM | RAW_SUM : 0;
    const wantsRaw = forReport | (adjustCount === 0 ? forPick : 0);
    this.#scans ||= wantsRaw !== 0;
    this.#filters ||= filters !== 0;
    return SampleRowParams.pack({
      wants_raw: wantsRaw,
      wants_adjusted: adjustCount > 0 ? forPick : 0,
      filters,
      report: logprobs !== null ? 1 : 0,
      top: Math.min(logprobs ?? 0, vocab),
      forced: forced ?? NOWHERE,
      slot: slot < 0 ? NOWHERE : slot,
      adjust_first: adjustFirst,
      adjust_count: adjustCount,
      top_k: filters & TOP_K ? spec.topK : 0,
      inverse_temperature: draws ? Math.min(1 / spec.temperature, MAX_INVERSE_TEMPERATURE) : 0,
      random: draws ? uniformOf(spec.seed, spec.step) : 0,
      typical_p: Math.max(0, spec.typicalP),
      top_p: Math.max(0, spec.topP),
      min_p_depth: filters & MIN_P ? Math.max(0, -Math.log(spec.minP)) : 0,
      padding: 0,
    });
  }

  #packAdjustments(spec: SampleSpec, first: number): number {
    const { words, floats } = this.#adjusting;
    let at = first;
    for (const { id, bias, scale, add } of spec.adjustments) {
      this.#checkId(id);
      words[at * ENTRY_WORDS] = id;
      floats[at * ENTRY_WORDS + 1] = scale;
      floats[at * ENTRY_WORDS + 2] = Math.min(-BANNED, Math.max(BANNED, add));
      floats[at * ENTRY_WORDS + 3] = Math.min(-BANNED, Math.max(BANNED, bias));
      at++;
    }
    return at;
  }

  #checkId(id: number): void {
    if (!(Number.isInteger(id) && id >= 0 && id < this.#options.vocabSize)) {
      throw new RangeError(`token ${id} is not in the vocabulary of ${this.#options.vocabSize}`);
    }
  }

  /**
   * Records the dispatches for the rows that were prepared last. Once for each `prepare`: the
   * adjusted logits are kept where the biases were uploaded to.
   */
  encode(pass: GPUComputePassEncoder): void {
    const { scan, adjust, pickPlain, pickFiltered } = this.#compiled;
    const pieces = this.#numRows * this.#splits;
    if (this.#scans) dispatch(pass, scan, this.#scan[0], pieces);
    if (this.#adjusts) {
      dispatch(pass, adjust, this.#adjusting.adjust, this.#numRows);
      dispatch(pass, scan, this.#scan[1], pieces);
    }
    if (this.#filters) dispatch(pass, pickFiltered, this.#adjusting.pickFiltered, this.#numRows);
    else dispatch(pass, pickPlain, this.#adjusting.pickPlain, this.#numRows);
  }

  /** Reads results that were copied from the device: `bytesPerRow` for each row. */
  parse(bytes: Uint8Array, numRows: number): Sampled[] {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const word = (index: number) => view.getUint32(index * 4, true);
    const logprob = (index: number) => Math.max(LEAST_LOGPROB, view.getFloat32(index * 4, true));
    return Array.from({ length: numRows }, (_, row) => {
      const at = row * RESULT_WORDS;
      const token = word(at);
      if (word(at + 3) === 0) return { token, logprob: null };
      const top = Array.from({ length: word(at + 2) }, (_, n) => ({
        id: word(at + HEADER_WORDS + 2 * n),
        logprob: logprob(at + HEADER_WORDS + 2 * n + 1),
      }));
      return { token, logprob: { id: token, logprob: logprob(at + 1), top } };
    });
  }

  /** Frees the sampler's own buffers. */
  [Symbol.dispose](): void {
    for (const buffer of this.#params) buffer.destroy();
    this.#rows.destroy();
    this.#stats.destroy();
    this.#list.destroy();
    this.results.destroy();
    this.#adjusting.buffer.destroy();
  }
}
