/** The rates of an adapter: the best of many variants of each kind of work. @module */
import type { Kernels } from "../src/gpu/kernels.ts";
import { type KernelPlan, selectPlan } from "../src/gpu/plan.ts";
import type { Readback } from "../src/gpu/readback.ts";
import type { WeightType } from "../src/model/types.ts";
import { calibrate } from "./_calibration.ts";
import type { Moment } from "./_clock.ts";
import {
  bareProbe,
  engineProbe,
  type EngineTile,
  hasBareForm,
  type Probe,
  type ProductProbe,
  streamProbe,
} from "./_probes.ts";
import type { Case } from "./_report.ts";
import { round, summarize } from "./_stats.ts";
import { alternate, submission, type Timed, type Times } from "./_timing.ts";

/** Best rates by one clock. */
export interface Rates {
  /** GB/s of reading memory. */
  readonly stream: number;
  /** GFLOP/s of products with one row, by storage type. */
  readonly matvec: ReadonlyMap<WeightType, number>;
  /** GFLOP/s of products with many rows. */
  readonly product: number;
}

/** What was found. */
export interface AdapterRates {
  readonly cases: readonly Case[];
  /** By the time that passed. */
  readonly wall: Rates;
  /**
   * By the processor time that it took, spread over all cores: what a CPU could do if nothing else
   * ran on it. Null for GPUs.
   */
  readonly cpu: Rates | null;
  /** Least time of the loop in JavaScript. */
  readonly loop: Moment;
  /** Times of what was to be measured in the same rounds. */
  readonly others: readonly Times[];
}

/** What is probed beside memory. */
export interface RateShapes {
  readonly matvec: readonly ProductProbe[];
  readonly product: readonly ProductProbe[];
}

/** Shapes of SmolLM2-135M. */
export const DEFAULT_SHAPES: RateShapes = {
  matvec: [
    { type: "Q4_1", rows: 1536, cols: 576, tokens: 1 },
    { type: "Q4_1", rows: 576, cols: 1536, tokens: 1 },
    { type: "Q8_0", rows: 49152, cols: 576, tokens: 1 },
  ],
  product: [
    { type: "Q4_1", rows: 1536, cols: 576, tokens: 64 },
    { type: "Q4_1", rows: 576, cols: 1536, tokens: 64 },
  ],
};

/** One product of each type and shape of a model, with one row. */
export function oneRowShapes(shapes: readonly Omit<ProductProbe, "tokens">[]): RateShapes {
  return {
    matvec: shapes.map(({ type, rows, cols }) => ({ type, rows, cols, tokens: 1 })),
    product: [],
  };
}

interface Candidate {
  readonly kind: "stream" | "matvec" | "product";
  readonly shape: ProductProbe | null;
  readonly probe: Probe;
  readonly timed: Timed;
}

/**
 * Tries all variants, in turns.
 *
 * @param others To be timed in the same rounds.
 */
export async function measureRates(
  kernels: Kernels,
  readback: Readback,
  rounds: number,
  shapes: RateShapes,
  others: readonly Timed[] = [],
): Promise<AdapterRates> {
  const candidates: Candidate[] = [];
  for (const [kind, shape, make] of recipes(kernels, shapes)) {
    const probe = await make();
    const timed = await submission(kernels.device, readback, probe.encode);
    candidates.push({ kind, shape, probe, timed });
  }
  const loops: Moment[] = [];
  const times = await alternate(
    [...candidates.map(({ timed }) => timed), ...others],
    rounds,
    () => loops.push(calibrate(1)),
  );
  for (const { probe } of candidates) probe[Symbol.dispose]();
  const cores = kernels.caps.software ? navigator.hardwareConcurrency : null;
  const wallMs = candidates.map((_, index) => Math.min(...times[index]!.wallMs));
  const cpuMs = cores === null
    ? null
    : candidates.map((_, index) => times[index]!.cpuMsMin / cores);
  return {
    cases: candidates.map((candidate, index) => caseOf(candidate, times[index]!, cores)),
    wall: ratesBy(candidates, wallMs),
    cpu: cpuMs === null ? null : ratesBy(candidates, cpuMs),
    loop: {
      wallMs: Math.min(...loops.map((loop) => loop.wallMs)),
      cpuMs: Math.min(...loops.map((loop) => loop.cpuMs)),
    },
    others: times.slice(candidates.length),
  };
}

type Recipe = readonly [Candidate["kind"], ProductProbe | null, () => Promise<Probe>];

/** All variants that are tried on an adapter. */
function recipes(kernels: Kernels, { matvec, product }: RateShapes): Recipe[] {
  const { caps } = kernels;
  const plan: KernelPlan = selectPlan(caps);
  const fixed = caps.subgroups && caps.subgroupMin === caps.subgroupMax;
  const lanes = fixed ? caps.subgroupMin : plan.matmulLanes;
  const list: Recipe[] = [];
  const streams = caps.software
    ? [[8, 2], [8, 4], [8, 8], [64, 4]] as const
    : [[64, 4], [128, 4], [256, 2], [256, 4]] as const;
  for (const [width, unroll] of streams) {
    list.push(["stream", null, () => streamProbe(kernels, STREAM_BYTES, width, unroll)]);
  }
  const engine = (
    kind: "matvec" | "product",
    shape: ProductProbe,
    rows: number,
    tokens: number,
  ) => {
    for (const subgroups of fixed ? [true, false] : [false]) {
      const tile: EngineTile = { form: "rows", lanes, rows, tokens, subgroups };
      list.push([kind, shape, () => engineProbe(kernels, plan, shape, tile)]);
    }
  };
  const bare = (kind: "matvec" | "product", shape: ProductProbe, rows: number, words: 1 | 4) => {
    const tile = { lanes, rows, words };
    if (hasBareForm(shape, tile)) list.push([kind, shape, () => bareProbe(kernels, shape, tile)]);
  };
  for (const shape of matvec) {
    for (const rows of [4, 8, 16]) {
      engine("matvec", shape, rows, 1);
      for (const words of [1, 4] as const) bare("matvec", shape, rows, words);
    }
  }
  for (const shape of product) {
    for (const [rows, tokens] of [[4, 4], [8, 4], [8, 8], [16, 4], [16, 8]] as const) {
      engine("product", shape, rows, tokens);
    }
    if (plan.laneTiles.length > 0) {
      for (const [rows, turns] of [[32, 1], [32, 4], [64, 2]] as const) {
        const tile = {
          form: "lanes",
          lanes,
          rows,
          tokens: turns * lanes,
          subgroups: true,
        } as const;
        list.push(["product", shape, () => engineProbe(kernels, plan, shape, tile)]);
      }
    }
    for (const [rows, tokens] of [[8, 4], [8, 8], [16, 4]] as const) {
      bare("product", { ...shape, tokens }, rows, 1);
    }
  }
  return list;
}

const STREAM_BYTES = 96 * 2 ** 20;

function ratesBy(candidates: readonly Candidate[], ms: readonly number[]): Rates {
  const best = (fits: (candidate: Candidate) => boolean, amount: "flops" | "bytes") =>
    candidates.reduce(
      (most, candidate, index) =>
        fits(candidate) ? Math.max(most, candidate.probe.work[amount] / ms[index]! / 1e6) : most,
      0,
    );
  const types = new Set(
    candidates.filter(({ kind }) => kind === "matvec").map(({ shape }) => shape!.type),
  );
  return {
    stream: best(({ kind }) => kind === "stream", "bytes"),
    matvec: new Map([...types].map((type) => [
      type,
      best(({ kind, shape }) => kind === "matvec" && shape?.type === type, "flops"),
    ])),
    product: best(({ kind }) => kind === "product", "flops"),
  };
}

function caseOf({ kind, shape, probe }: Candidate, times: Times, cores: number | null): Case {
  const { min, median, p95 } = summarize(times.wallMs);
  const { flops, bytes } = probe.work;
  const idleMs = cores === null ? null : times.cpuMsMin / cores;
  return {
    kind,
    shape: shape === null
      ? `${Math.round(bytes / 2 ** 20)} MiB`
      : `${shape.type} ${shape.rows}x${shape.cols}x${shape.tokens}`,
    variant: probe.variant,
    msMin: min,
    msMedian: median,
    msP95: p95,
    gflops: shape === null ? null : flops / min / 1e6,
    gbPerSecond: bytes / min / 1e6,
    gflopsByCpuTime: shape === null || idleMs === null ? null : flops / idleMs / 1e6,
    gbPerSecondByCpuTime: idleMs === null ? null : bytes / idleMs / 1e6,
  };
}

/** Lines under a table. */
export function ratesNotes({ wall, cpu, loop }: AdapterRates): string[] {
  const line = (name: string, rates: Rates) =>
    `best ${name}: memory ${round(rates.stream, 3)} GB/s; one row ` +
    [...rates.matvec].map(([type, rate]) => `${type} ${round(rate, 3)} GFLOP/s`).join(", ") +
    `; many rows ${round(rates.product, 3)} GFLOP/s`;
  return [
    line("by wall time", wall),
    ...(cpu === null ? [] : [line("by processor time over all cores", cpu)]),
    loopNote(loop),
  ];
}

/** Line that says how fast the machine was. */
export function loopNote(loop: Moment): string {
  return `loop in JavaScript (2048 x 2048 mat-vec): ${round(loop.wallMs, 3)} ms, ` +
    `${round(loop.cpuMs, 3)} ms of processor time`;
}
