/** The checks of `self_test.ts`, each with its plain arithmetic. @module */
import { dequantizeRow, halfToFloat } from "../model/quants.ts";
import type { WeightType } from "../model/types.ts";
import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  NO_SPLIT,
  partialStride,
} from "./ops/attention.ts";
import { EMBED_PARAMS, embedSpec } from "./ops/embed.ts";
import { MATMUL_PARAMS, type MatmulForm, matmulSpec, matmulWorkgroups } from "./ops/matmul.ts";
import { NORM_PARAMS, rmsNormSpec } from "./ops/rms_norm.ts";
import { ROPE_PARAMS, ropeAngles, ropeSpec } from "./ops/rope.ts";
import { attentionFormOf, type KernelPlan } from "./plan.ts";
import type { Scratch, ScratchCall } from "./scratch.ts";
import {
  rowBytes,
  rowFileBytes,
  rowVecs,
  toDeviceLayout,
  WEIGHT_LAYOUTS,
} from "./weight_layout.ts";

/** A check: runs kernels and gives the largest error, as a part of the size of the values. */
export interface SelfCheck {
  readonly name: string;
  /** Largest error that is right. */
  readonly limit: number;
  run(scratch: Scratch, plan: KernelPlan): Promise<number>;
}

const ARITHMETIC = 1e-4;
const UNPACKING = 1e-6;
/** Rounding to half precision in either direction. */
const HALF = 2 ** -9;

/** All checks, the most telling first. */
export const SELF_CHECKS: readonly SelfCheck[] = [
  ...(["F16", "Q8_0", "Q4_1", "Q4_K", "Q6_K"] as const).map((type) => ({
    name: `weights in ${type}`,
    limit: UNPACKING,
    run: (scratch: Scratch, plan: KernelPlan) => checkWeights(scratch, plan, type),
  })),
  {
    name: "product with one token",
    limit: ARITHMETIC,
    run: (scratch, plan) => checkProduct(scratch, plan, "Q4_1", 1),
  },
  {
    name: "product with several tokens",
    limit: ARITHMETIC,
    run: (scratch, plan) => checkProduct(scratch, plan, "Q8_0", 4),
  },
  {
    name: "product, a lane for a token",
    limit: ARITHMETIC,
    run: (scratch, plan) =>
      plan.laneTiles.length === 0
        ? Promise.resolve(0)
        : checkProduct(scratch, plan, "Q4_1", plan.matmulLanes, "lanes"),
  },
  { name: "norm", limit: ARITHMETIC, run: checkNorm },
  { name: "rotation and cache", limit: HALF, run: checkRope },
  {
    name: "attention when decoding",
    limit: ARITHMETIC,
    run: (scratch, plan) => checkAttention(scratch, plan, true),
  },
  {
    name: "attention over a prompt",
    limit: ARITHMETIC,
    run: (scratch, plan) => checkAttention(scratch, plan, false),
  },
];

/** Repeatable numbers in -1 .. 1. */
function numbers(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** Largest error over the largest value. NaN counts as infinite. */
function errorOf(got: ArrayLike<number>, want: readonly number[]): number {
  let largest = 0;
  let error = 0;
  want.forEach((value, index) => {
    largest = Math.max(largest, Math.abs(value));
    const off = Math.abs(got[index]! - value);
    error = off <= error ? error : Number.isNaN(off) ? Infinity : off;
  });
  return error / largest;
}

/** Rows whose half-precision factors are too small to be normal: some drivers turn them to zero. */
function storedRows(type: WeightType, rows: number, cols: number) {
  const bytes = new Uint8Array(rows * rowFileBytes(type, cols));
  numbers(bytes.length, 7).forEach((value, index) => bytes[index] = 128 + 127 * value);
  const view = new DataView(bytes.buffer);
  const size = WEIGHT_LAYOUTS[type].fileBytes;
  const halves = { F16: [0, 2, 4, 6, 8, 10, 12, 14], Q8_0: [0], Q4_1: [0, 2], Q4_K: [0, 2] };
  const places = halves[type as keyof typeof halves] ?? [size - 2];
  for (let block = 0; block < bytes.length; block += size) {
    for (const at of places) view.setUint16(block + at, 0x0123 + block % 512 + at, true);
  }
  const values = new Float32Array(rows * cols);
  dequantizeRow(type, bytes, values);
  const device = new Uint8Array(rows * rowBytes(type, cols));
  toDeviceLayout(type, rows, cols, bytes, device);
  return { device, values: Array.from(values) };
}

async function checkWeights(
  scratch: Scratch,
  plan: KernelPlan,
  type: WeightType,
): Promise<number> {
  const [rows, cols] = [3, 256];
  const { device, values } = storedRows(type, rows, cols);
  const table = Uint32Array.from({ length: rows * 4 }, (_, i) => i % 4 === 0 ? i / 4 : 0);
  const x = scratch.storage(new Float32Array(rows * cols));
  const params = EMBED_PARAMS.pack({
    first_token: 0,
    num_tokens: rows,
    units: cols / 8,
    row_vecs: rowVecs(type, cols),
    x_stride: cols / 4,
  });
  await scratch.run([{
    spec: embedSpec({ type, lanes: plan.rowLanes }),
    parts: [
      scratch.storage(device),
      scratch.storage(table),
      scratch.storage(new Uint32Array(4)),
      x,
      scratch.uniform(params),
    ],
    step: { numRows: rows },
    workgroups: rows,
  }]);
  return errorOf(await scratch.floats(x, rows * cols), values);
}

async function checkProduct(
  scratch: Scratch,
  plan: KernelPlan,
  type: WeightType,
  tokens: number,
  form: MatmulForm = "rows",
): Promise<number> {
  const [rows, cols] = [form === "rows" ? 9 : 12, 256];
  const { device, values } = storedRows(type, rows, cols);
  const x = numbers(tokens * cols, 3);
  const y = scratch.storage(new Float32Array(tokens * rows));
  const variant = {
    form,
    type,
    epilogue: "store",
    bias: false,
    lanes: plan.matmulLanes,
    rows: form === "rows" ? 4 : plan.matmulLanes,
    tokens,
    subgroups: plan.subgroups,
  } as const;
  const params = MATMUL_PARAMS.pack({
    rows,
    units: cols / 8,
    row_vecs: rowVecs(type, cols),
    row_offset: 0,
    y_stride: rows,
    x_stride: cols / 4,
    square_vecs: 0,
    norm_width: 0,
    norm_eps: 0,
  });
  await scratch.run([{
    spec: matmulSpec(variant),
    parts: [scratch.storage(device), scratch.storage(x), y, scratch.uniform(params)],
    step: { numRows: tokens },
    workgroups: matmulWorkgroups(variant, rows, tokens),
  }]);
  const want = Array.from({ length: tokens * rows }, (_, i) => {
    const [token, row] = [Math.floor(i / rows), i % rows];
    let sum = 0;
    for (let k = 0; k < cols; k++) sum += values[row * cols + k]! * x[token * cols + k]!;
    return sum;
  });
  return errorOf(await scratch.floats(y, want.length), want);
}

async function checkNorm(scratch: Scratch, plan: KernelPlan): Promise<number> {
  const [rows, width, eps] = [2, 96, 1e-5];
  const x = numbers(rows * width, 5);
  const gain = numbers(width, 6);
  const y = scratch.storage(new Float32Array(rows * width));
  await scratch.run([{
    spec: rmsNormSpec({ lanes: plan.rowLanes, subgroups: plan.subgroups }),
    parts: [
      scratch.storage(x),
      scratch.storage(gain),
      y,
      scratch.uniform(NORM_PARAMS.pack({ stride: width / 4, width, eps })),
    ],
    step: { numRows: rows },
    workgroups: rows,
  }]);
  const want = Array.from(x, (value, i) => {
    const row = x.subarray(i - i % width, i - i % width + width);
    const square = row.reduce((sum, v) => sum + v * v, 0) / width;
    return value * gain[i % width]! / Math.sqrt(square + eps);
  });
  return errorOf(await scratch.floats(y, want.length), want);
}

/** A small head: the kernels unroll it, and compiling is what takes the time. */
const HEAD_DIM = 16;
const CACHE_PAGE = 32;

async function checkRope(scratch: Scratch, plan: KernelPlan): Promise<number> {
  const position = 37;
  const half = HEAD_DIM / 2;
  // One head of q, of k and of v.
  const heads = numbers(3 * HEAD_DIM, 9);
  const inverseFrequencies = Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
  const angles = new Float32Array(HEAD_DIM);
  const rope = { dimensions: HEAD_DIM, pairing: "half", inverseFrequencies, attentionFactor: 1 };
  ropeAngles({ ...rope, pairing: "half" }, position, angles, 0);
  const [q, keys, values] = [
    scratch.storage(heads),
    scratch.storage(new Uint32Array(2 * CACHE_PAGE * HEAD_DIM / 2)),
    scratch.storage(new Uint32Array(2 * CACHE_PAGE * HEAD_DIM / 2)),
  ];
  const params = ROPE_PARAMS.pack({
    num_heads: 1,
    num_kv_heads: 1,
    rotary: HEAD_DIM,
    max_pages: 2,
    eps: 1e-5,
  });
  await scratch.run([{
    spec: ropeSpec({
      headDim: HEAD_DIM,
      pairing: "half",
      qkNorm: false,
      kvType: "f16",
      pageSize: CACHE_PAGE,
      lanes: plan.rowLanes,
      subgroups: plan.subgroups,
    }),
    parts: [
      q,
      scratch.storage(Uint32Array.of(0, 0, position, 0)),
      scratch.storage(angles),
      scratch.storage(Uint32Array.of(1, 0)),
      keys,
      values,
      scratch.uniform(params),
    ],
    step: { numRows: 1 },
    workgroups: 3,
  }]);
  const turned = (head: Float32Array) =>
    Array.from(head, (value, d) => {
      const angle = position * inverseFrequencies[d % half]!;
      const other = d < half ? -head[d + half]! : head[d - half]!;
      return value * Math.cos(angle) + other * Math.sin(angle);
    });
  // Position 37 is row 5 of the second page, which the table puts first in the cache.
  const cell = (position - CACHE_PAGE) * HEAD_DIM;
  const cached = async (buffer: GPUBuffer) => {
    const words = await scratch.words(buffer, CACHE_PAGE * HEAD_DIM / 2);
    const halves = new Uint16Array(words.buffer).subarray(cell, cell + HEAD_DIM);
    return Array.from(halves, halfToFloat);
  };
  return Math.max(
    errorOf(await scratch.floats(q, HEAD_DIM), turned(heads.subarray(0, HEAD_DIM))),
    errorOf(await cached(keys), turned(heads.subarray(HEAD_DIM, 2 * HEAD_DIM))),
    errorOf(await cached(values), Array.from(heads.subarray(2 * HEAD_DIM))),
  );
}

async function checkAttention(
  scratch: Scratch,
  plan: KernelPlan,
  decode: boolean,
): Promise<number> {
  const group = 2;
  const split = Math.max(plan.attentionLanes * 4, CACHE_PAGE);
  const form = attentionFormOf(plan, decode ? "decode" : "prefill");
  const variant: AttentionVariant = {
    headDim: HEAD_DIM,
    group,
    // One kernel for both checks, but where a lane has a row.
    queryRows: form === "queries" ? plan.attentionLanes : 2,
    kvType: "f32",
    pageSize: CACHE_PAGE,
    lanes: plan.attentionLanes,
    form,
  };
  // Decoding: one row that needs two splits. A prompt: three rows, one tile and a half.
  const positions = decode ? [split + 2] : [0, 1, 2];
  const length = positions.at(-1)! + 1;
  const pages = Math.ceil(length / CACHE_PAGE);
  const keys = numbers(pages * CACHE_PAGE * HEAD_DIM, 11);
  const values = numbers(pages * CACHE_PAGE * HEAD_DIM, 12);
  const rowSize = (group + 2) * HEAD_DIM;
  const qkv = numbers(positions.length * rowSize, 13);
  // The pages lie in reverse.
  const table = Uint32Array.from({ length: pages }, (_, page) => pages - 1 - page);
  const rowAt = (p: number) =>
    (table[Math.floor(p / CACHE_PAGE)]! * CACHE_PAGE + p % CACHE_PAGE) * HEAD_DIM;
  const numSplits = decode ? 2 : 1;
  const partialSize = positions.length * group * numSplits * partialStride(HEAD_DIM);
  const partial = scratch.storage(new Float32Array(partialSize));
  const rows = scratch.storage(Uint32Array.from(positions.flatMap((p) => [0, 0, p, 0])));
  const out = scratch.storage(new Float32Array(positions.length * group * HEAD_DIM));
  const params = scratch.uniform(attentionParams({
    numHeads: group,
    numKvHeads: 1,
    maxPages: pages,
    maxSplits: numSplits,
    splitKeys: decode ? split : NO_SPLIT,
  }));
  const step = { numRows: positions.length, numSplits };
  const calls: ScratchCall[] = [{
    spec: attentionSpec(variant),
    parts: [
      scratch.storage(qkv),
      scratch.storage(keys),
      scratch.storage(values),
      scratch.storage(table),
      rows,
      out,
      partial,
      params,
    ],
    step,
    workgroups: attentionWorkgroups(variant, 1, positions.length, numSplits),
  }];
  if (decode) {
    calls.push({
      spec: attentionMergeSpec({ ...variant, lanes: plan.rowLanes }),
      parts: [partial, rows, out, params],
      step,
      workgroups: group,
    });
  }
  await scratch.run(calls);
  const want = positions.flatMap((position, row) =>
    Array.from({ length: group }, (_, head) => {
      const query = qkv.subarray(row * rowSize + head * HEAD_DIM);
      const weights = Array.from({ length: position + 1 }, (_, p) => {
        let score = 0;
        for (let d = 0; d < HEAD_DIM; d++) score += query[d]! * keys[rowAt(p) + d]!;
        return Math.exp(score / Math.sqrt(HEAD_DIM));
      });
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      return Array.from({ length: HEAD_DIM }, (_, d) =>
        weights.reduce((sum, weight, p) => sum + weight * values[rowAt(p) + d]!, 0) / total);
    }).flat()
  );
  return errorOf(await scratch.floats(out, want.length), want);
}
