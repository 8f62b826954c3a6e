/**
 * Engines in this isolate whose insides tests can see, and reading whole rows of logits.
 *
 * @module
 */
import {
  createEngineParts,
  type EngineParts,
  type EngineSystem,
  openKernels,
} from "../../src/engine/create.ts";
import type { Kernels } from "../../src/gpu/kernels.ts";
import { LocalEngine } from "../../src/engine/local_engine.ts";
import type { DecodeRow, PrefillChunk, Runner, SampleSpec } from "../../src/engine/runner_types.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS, type EngineOptions } from "../../src/engine/types.ts";
import { Readback } from "../../src/gpu/readback.ts";

/** An engine in this isolate and what it is made of. */
export interface TestEngine extends AsyncDisposable {
  readonly engine: LocalEngine;
  readonly parts: EngineParts;
}

/** Is told of every step that an engine takes, once it is done. */
export interface StepTap {
  readonly prefilled?: (chunk: PrefillChunk) => void | Promise<void>;
  readonly decoded?: (rows: readonly DecodeRow[]) => unknown;
}

/**
 * Starts an engine in this isolate; {@linkcode TINY_OPTIONS} unless told otherwise.
 *
 * @param tap Made from the engine's parts.
 * @param system What rows below the device are kept with.
 */
export async function openEngine(
  modelPath: string,
  options: Partial<Omit<EngineOptions, "modelPath">> = {},
  tap: (parts: EngineParts) => StepTap | Promise<StepTap> = () => ({}),
  system: EngineSystem = {},
): Promise<TestEngine> {
  const all = { ...TINY_OPTIONS, ...options, modelPath };
  const plain = Object.keys(all.kernelOverrides).length === 0;
  const lent = plain ? await lendKernels() : null;
  const given = lent === null ? system : { ...system, kernels: lent.kernels };
  const parts = await createEngineParts(all, () => {}, given);
  const { prefilled, decoded } = await tap(parts);
  const runner: Runner = {
    begin: (slot, need) => parts.runner.begin(slot, need),
    report: (slot) => parts.runner.report(slot),
    get totals() {
      return parts.runner.totals;
    },
    park: (slot) => parts.runner.park(slot),
    restore: (slot, parked) => parts.runner.restore(slot, parked),
    prefill: async (chunk) => {
      const result = await parts.runner.prefill(chunk);
      await prefilled?.(chunk);
      return result;
    },
    decode: async (rows) => {
      const result = await parts.runner.decode(rows);
      await decoded?.(rows);
      return result;
    },
  };
  const engine = new LocalEngine({ ...parts, runner });
  return {
    engine,
    parts,
    async [Symbol.asyncDispose]() {
      await engine.close();
      lent?.[Symbol.dispose]();
    },
  };
}

/** Engines that a device serves before it makes way: what one of them leaves behind does not pile up. */
const LOANS = 16;

/** A device, its kernels compiled as engines needed them, and who has it. */
interface Lender {
  readonly kernels: Kernels;
  loans: number;
  users: number;
}

let lender: Promise<Lender> | null = null;

function openLender(): Promise<Lender> {
  const opened = openKernels({}).then((kernels) => {
    // Nobody wants a device that a test has lost.
    kernels.device.lost.then(() => lender = lender === opened ? null : lender);
    return { kernels, loans: 0, users: 0 };
  });
  return opened;
}

/** Compiling takes longer than most tests: engines of a test file share a device, in turns or not. */
async function lendKernels(): Promise<{ readonly kernels: Kernels } & Disposable> {
  lender ??= openLender();
  const mine = lender;
  const lent = await mine;
  lent.users++;
  if (++lent.loans >= LOANS && lender === mine) lender = null;
  return {
    kernels: lent.kernels,
    [Symbol.dispose]() {
      if (--lent.users === 0 && lender !== mine) lent.kernels.device.destroy();
    },
  };
}

/** Options that suit the tiny models. */
export const TINY_OPTIONS: Omit<EngineOptions, "modelPath"> = {
  contextLength: 256,
  maxSequences: 1,
  kvType: "f32",
  prefillChunk: 64,
  kernelOverrides: {},
  ...DEFAULT_CACHE,
  // A predictor is large beside them.
  maxParameters: Infinity,
  // What is tested is what a prefill gives: each is a fresh one unless a test says otherwise.
  tiers: { ...DEFAULT_TIERS, prefixCache: false },
};

const FORCED: SampleSpec = {
  temperature: 0,
  topK: 0,
  typicalP: 1,
  topP: 1,
  minP: 0,
  seed: 0,
  step: 0,
  adjustments: [],
  forced: 0,
  logprobs: null,
};

/** Reads whole rows of logits, past the engine's own interface. No request may run meanwhile. */
export class LogitReader implements Disposable {
  readonly #parts: EngineParts;
  readonly #readback: Readback;

  private constructor(parts: EngineParts, readback: Readback) {
    this.#parts = parts;
    this.#readback = readback;
  }

  static async create(parts: EngineParts): Promise<LogitReader> {
    const bytes = parts.info.model.vocabSize * 4;
    return new LogitReader(parts, await Readback.create(parts.device, bytes));
  }

  /** Logits after each of `positions` (ascending), the tokens going through prefill. */
  async prefilled(
    ids: readonly number[],
    positions: readonly number[],
    chunk: number,
  ): Promise<Float32Array[]> {
    const { runner, kv } = this.#parts;
    const found: Float32Array[] = [];
    kv.reserve(0, ids.length);
    try {
      let start = 0;
      for (const position of positions) {
        while (start <= position) {
          const end = Math.min(position + 1, start + chunk);
          const tokens = ids.slice(start, end);
          const sample = end === position + 1 ? FORCED : null;
          await runner.prefill({ slot: 0, start, tokens, sample, scoring: null });
          start = end;
        }
        found.push(await this.first());
      }
    } finally {
      kv.release(0);
    }
    return found;
  }

  /** The same, the tokens going through decode one at a time; the first one is prefilled. */
  async decoded(ids: readonly number[], positions: readonly number[]): Promise<Float32Array[]> {
    const { runner, kv } = this.#parts;
    const found: Float32Array[] = [];
    kv.reserve(0, ids.length);
    try {
      for (let position = 0; position <= positions.at(-1)!; position++) {
        const token = ids[position]!;
        if (position > 0) await runner.decode([{ slot: 0, position, token, sample: FORCED }]);
        else {
          const sample = FORCED;
          await runner.prefill({ slot: 0, start: 0, tokens: [token], sample, scoring: null });
        }
        if (positions.includes(position)) found.push(await this.first());
      }
    } finally {
      kv.release(0);
    }
    return found;
  }

  /** The first row of the step that was run last. */
  async first(): Promise<Float32Array> {
    const { runner, info } = this.#parts;
    const bytes = info.model.vocabSize * 4;
    const copy = await this.#readback.copyAndRead(runner.logits, 0, bytes);
    return new Float32Array(copy.slice().buffer);
  }

  [Symbol.dispose](): void {
    this.#readback[Symbol.dispose]();
  }
}
