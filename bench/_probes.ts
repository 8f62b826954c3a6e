/**
 * Small pieces of work whose rate says what an adapter can do: reading memory, and products of a
 * stored matrix with one or many rows, in many variants.
 *
 * @module
 */
import { Product } from "../src/engine/product.ts";
import type { DeviceMatrix } from "../src/engine/weights.ts";
import type { WeightType } from "../src/model/types.ts";
import { dispatch, type Kernels, type KernelSpec } from "../src/gpu/kernels.ts";
import type { MatmulForm } from "../src/gpu/ops/matmul.ts";
import type { KernelPlan } from "../src/gpu/plan.ts";
import { STEP_PARAMS } from "../src/gpu/step_params.ts";
import { paddedCols, rowBytes, rowFileBytes, toDeviceLayout } from "../src/gpu/weight_layout.ts";
import type { Work } from "./_work.ts";

/** A variant to be timed. */
export interface Probe extends Disposable {
  readonly variant: string;
  /** Work of one call of `encode`. */
  readonly work: Work;
  encode(pass: GPUComputePassEncoder): void;
}

/** Device memory that the copies of a matrix may take: more than caches hold, where it can be. */
const COPIES_BYTES = 48 * 2 ** 20;

/** A matrix shape that is probed. */
export interface ProductProbe {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  readonly tokens: number;
}

/** Reads `bytes` of memory. */
export async function streamProbe(
  kernels: Kernels,
  bytes: number,
  lanes: number,
  unroll: number,
): Promise<Probe> {
  const chunk = Math.max(1024, lanes * unroll);
  const workgroups = Math.floor(bytes / 16 / chunk);
  const variant = `stream_wg${lanes}_u${unroll}`;
  const kernel = await kernels.compile({
    shader: "bench/stream",
    variant,
    defines: { WG: `${lanes}u`, CHUNK: `${chunk}u`, UNROLL: unroll },
    bindings: ["read", "write"],
    structs: [],
  });
  const source = kernels.storage("stream", workgroups * chunk * 16);
  const out = kernels.storage("stream sums", workgroups * lanes * 16);
  // Pages of host memory that were never written may all be the same one.
  const words = new Uint32Array(2 ** 20).map((_, index) => Math.imul(index, 2654435761));
  for (let at = 0; at < source.size; at += words.byteLength) {
    const size = Math.min(words.length, (source.size - at) / 4);
    kernels.device.queue.writeBuffer(source, at, words, 0, size);
    kernels.device.queue.submit([]);
  }
  const group = kernels.bind(kernel, [source, out]);
  return {
    variant,
    work: { flops: 0, bytes: workgroups * chunk * 16 },
    encode: (pass) => dispatch(pass, kernel, group, workgroups),
    [Symbol.dispose]() {
      source.destroy();
      out.destroy();
    },
  };
}

/** Tile of the engine's kernel. */
export interface EngineTile {
  readonly form: MatmulForm;
  readonly lanes: number;
  readonly rows: number;
  readonly tokens: number;
  readonly subgroups: boolean;
}

/** A product by the engine's own kernel. */
export async function engineProbe(
  kernels: Kernels,
  plan: KernelPlan,
  shape: ProductProbe,
  tile: EngineTile,
): Promise<Probe> {
  const { type, rows, cols, tokens } = shape;
  const x = activations(kernels, tokens * paddedCols(cols));
  const y = kernels.storage("y", tokens * rows * 4);
  const step = kernels.uniform(
    "step",
    STEP_PARAMS.pack({ num_rows: tokens, first_row: 0, num_splits: 1, logits_row: 0 }),
  );
  const own: (GPUBuffer | Product)[] = [x, y, step];
  const products: Product[] = [];
  for (let copy = numCopies(rows * rowBytes(type, cols)); copy > 0; copy--) {
    const buffer = modelWeights(kernels, type, rows, cols);
    const matrix: DeviceMatrix = { type, rows, cols, parts: [{ buffer, firstRow: 0, rows }] };
    const product = await Product.create(
      kernels,
      {
        ...plan,
        matmulLanes: tile.lanes,
        subgroups: tile.subgroups,
        matvecRows: tile.rows,
        matmulRows: tile.rows,
        tokenTiles: tile.tokens === 1 ? [1] : [1, tile.tokens],
        laneTiles: tile.form === "lanes" ? [tile.tokens] : [],
        laneRows: tile.rows,
      },
      { matrix, x, y, yStride: rows, epilogue: "store", step },
    );
    products.push(product);
    own.push(buffer, product);
  }
  let next = 0;
  return {
    variant:
      `engine_${
        tile.form === "lanes" ? "lanes_" : ""
      }${type}_r${tile.rows}_t${tile.tokens}_wg${tile.lanes}` +
      (tile.subgroups ? "_sg" : ""),
    work: { flops: 2 * rows * cols * tokens, bytes: rows * rowFileBytes(type, cols) },
    encode: (pass) => products[next++ % products.length]!.encode(pass, tokens, 0),
    [Symbol.dispose]: () => free(own),
  };
}

/** Form of the bare kernel. */
export interface BareTile {
  readonly lanes: number;
  readonly rows: number;
  /** Words that a lane loads together. */
  readonly words: 1 | 4;
}

/** Bits of the types that the bare kernel has a counterpart of. */
const BARE_BITS: Partial<Record<WeightType, number>> = { Q4_0: 4, Q4_1: 4, Q8_0: 8 };

/** Whether the bare kernel can stand in for a shape. */
export function hasBareForm(shape: ProductProbe, tile: BareTile): boolean {
  return shape.type in BARE_BITS && shape.rows % tile.rows === 0 && shape.cols % 32 === 0;
}

/** A product by the bare kernel. All tokens of the shape go by in one tile. */
export async function bareProbe(
  kernels: Kernels,
  shape: ProductProbe,
  tile: BareTile,
): Promise<Probe> {
  const { type, rows, cols, tokens } = shape;
  const bits = BARE_BITS[type];
  if (bits === undefined) throw new RangeError(`there is no bare kernel for ${type}`);
  const wordsOfRow = cols * bits / 32;
  const sums = tile.rows * tokens;
  const spec: KernelSpec = {
    shader: "bench/product",
    variant:
      `bare_${bits}bit_r${tile.rows}_t${tokens}_w${tile.words}_wg${tile.lanes}_${rows}x${cols}`,
    defines: {
      WG: `${tile.lanes}u`,
      WG_COUNT: tile.lanes,
      ROWS: tile.rows,
      TOKENS: tokens,
      BITS: bits,
      WORDS: tile.words,
      STEPS: `${wordsOfRow / tile.words}u`,
      STEPS_A_BLOCK: `${bits / tile.words}u`,
      NUM_ROWS: `${rows}u`,
      SUMS: `${sums}u`,
      PARTIALS: sums * tile.lanes,
    },
    bindings: ["read", "read", "read", "write"],
    structs: [],
  };
  const kernel = await kernels.compile(spec);
  const x = activations(kernels, tokens * cols);
  const y = kernels.storage("y", tokens * rows * 4);
  const bytes = rows * (wordsOfRow + cols / 32) * 4;
  const matrices = Array.from({ length: numCopies(bytes) }, () => ({
    quants: filled(kernels, rows * wordsOfRow, false),
    scales: filled(kernels, rows * cols / 32, true),
  }));
  const groups = matrices.map(({ quants, scales }) => kernels.bind(kernel, [quants, scales, x, y]));
  let next = 0;
  return {
    variant: spec.variant,
    work: { flops: 2 * rows * cols * tokens, bytes },
    encode(pass) {
      dispatch(pass, kernel, groups[next++ % groups.length]!, rows / tile.rows);
    },
    [Symbol.dispose]: () =>
      free([x, y, ...matrices.flatMap(({ quants, scales }) => [quants, scales])]),
  };
}

function free(things: readonly (GPUBuffer | Product)[]): void {
  for (const thing of things) {
    if (thing instanceof Product) thing[Symbol.dispose]();
    else thing.destroy();
  }
}

function numCopies(bytes: number): number {
  return Math.max(1, Math.min(30, Math.floor(COPIES_BYTES / bytes)));
}

function activations(kernels: Kernels, count: number): GPUBuffer {
  const values = Float32Array.from({ length: count }, (_, index) => ((index * 37) % 101) / 50 - 1);
  const buffer = kernels.storage("x", count * 4);
  kernels.device.queue.writeBuffer(buffer, 0, values);
  return buffer;
}

/** Two halves of about 0.01 and -0.08: scale and minimum of a block. */
const SCALES = 0xad1f211f;

/** A buffer of words with well-mixed bits, or full of a scale and a minimum. */
function filled(kernels: Kernels, count: number, scales: boolean): GPUBuffer {
  const words = new Uint32Array(count);
  for (let index = 0; index < count; index++) words[index] = scales ? SCALES : mix(index);
  return upload(kernels, words);
}

/** A matrix as the engine keeps it. Bytes are so small that a scale is never infinite. */
function modelWeights(kernels: Kernels, type: WeightType, rows: number, cols: number): GPUBuffer {
  const file = new Uint8Array(rows * rowFileBytes(type, cols));
  for (let index = 0; index < file.length; index++) file[index] = mix(index) & 0x3f;
  const device = new Uint8Array(rows * rowBytes(type, cols));
  toDeviceLayout(type, rows, cols, file, device);
  return upload(kernels, device);
}

function upload(
  kernels: Kernels,
  data: Uint32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>,
): GPUBuffer {
  const buffer = kernels.storage("weights", data.byteLength);
  kernels.device.queue.writeBuffer(buffer, 0, data);
  kernels.device.queue.submit([]);
  return buffer;
}

function mix(index: number): number {
  const value = Math.imul(index ^ (index >>> 15), 0x2c1b3c6d);
  return (value ^ (value >>> 12)) >>> 0;
}
