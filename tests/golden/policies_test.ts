/**
 * Selection policies on a tiny model whose rows are all on the device: with settings that cover the
 * context they equal dense attention, whoever is in a batch changes nothing for the others, and
 * neither does being parked.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import type { ParkedRows, SampleSpec } from "../../src/engine/runner_types.ts";
import { DEFAULT_TIERS, type Engine } from "../../src/engine/types.ts";
import { resolveKv } from "../../src/butler/settings.ts";
import type { SequenceNeed } from "../../src/kv/types.ts";
import { assert } from "std-testing";
import { openEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  textIds,
  worst,
} from "./_offload.ts";
import { generate } from "./_requests.ts";

const PATH = await offloadedModel();
const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();

/** Every policy, at so few rows that it has to choose. */
const FEW: readonly KvRequest[] = [
  { policy: "dense" },
  { policy: "oracle", budget: { rows: 20 } },
  { policy: "quest", budget: { rows: 60 } },
  { policy: "h2o", budget: { rows: 20 } },
  { policy: "h2o", budget: { share: 0.3 }, interval: 3 },
  { policy: "snapkv", budget: { rows: 20 } },
  { policy: "streaming", window: 40 },
  { policy: "loki", budget: { rows: 20 }, interval: 2, neighbours: true },
  { policy: "tokenbutler", budget: { rows: 20 } },
];

/** Rows of a prefill chunk, at most. */
const CHUNK = 64;

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
  logprobs: 0,
};

function open(maxSequences: number) {
  return openEngine(PATH, {
    contextLength: 256,
    prefillChunk: CHUNK,
    maxSequences,
    calibration: CALIBRATION,
    predictor: PREDICTOR,
    tiers: DEFAULT_TIERS,
  });
}

async function nll(
  engine: Engine,
  text: readonly number[],
  prefilled: number,
  kv: KvRequest,
): Promise<number[]> {
  const forcedIds = text.slice(prefilled);
  const { logprobs } = await generate(engine, text.slice(0, prefilled), forcedIds.length, {
    forcedIds,
    logprobs: 0,
    kv: { sinks: 4, window: 12, ...kv },
  });
  return logprobs.map((entry) => -entry!.logprob);
}

Deno.test("every policy equals dense attention where its settings cover the context", async () => {
  await using opened = await open(1);
  const text = textIds(190, 320);
  const dense = await nll(opened.engine, text, 150, { policy: "dense" });
  for (
    const policy of [
      "oracle",
      "quest",
      "h2o",
      "snapkv",
      "streaming",
      "loki",
      "tokenbutler",
    ] as const
  ) {
    for (const interval of [1, 4]) {
      const kv = { policy, interval, budget: { rows: 200 }, window: 200 };
      const off = worst(await nll(opened.engine, text, 150, kv), dense);
      console.log(`${policy}, interval ${interval}: NLL at most ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `${policy} is off by ${off}`);
    }
    // Rows come to be more than the settings cover while the answer is made.
    const kv = { policy, budget: { rows: 100 }, window: policy === "streaming" ? 165 : 60 };
    const got = await nll(opened.engine, text, 150, kv);
    const off = worst(got.slice(0, 14), dense.slice(0, 14));
    assert.ok(off <= NLL_BOUND, `${policy} is off by ${off} before it selects`);
    assert.ok(worst(got, dense) > NLL_BOUND, `${policy} never selects`);
  }
});

Deno.test("sequences of different policies in one batch give what each gives alone", async () => {
  const texts = FEW.map((_, i) => textIds(120 + 7 * i, 320, i + 1));
  const alone: number[][] = [];
  {
    await using opened = await open(1);
    for (const [i, kv] of FEW.entries()) alone.push(await nll(opened.engine, texts[i]!, 70, kv));
  }
  for (const maxSequences of [2, 3]) {
    // Slots are taken over by sequences of other policies as they become free.
    await using opened = await open(maxSequences);
    for (const order of [FEW.map((_, i) => i), FEW.map((_, i) => (i * 5 + 3) % FEW.length)]) {
      const together = await Promise.all(
        order.map((i) => nll(opened.engine, texts[i]!, 70, FEW[i]!)),
      );
      together.forEach((got, at) => {
        const i = order[at]!;
        const off = worst(got, alone[i]!);
        console.log(`${FEW[i]!.policy}, ${maxSequences} slots: NLL at most ${figure(off)} off`);
        assert.ok(off <= NLL_BOUND, `${FEW[i]!.policy} is off by ${off}`);
      });
    }
  }
});

/** A sequence that is run by hand. */
class HandRun {
  readonly #parts: EngineParts;
  readonly #text: readonly number[];
  readonly #need: SequenceNeed;
  #slot: number;
  #position = 0;
  #parked: ParkedRows | null = null;
  readonly nll: number[] = [];

  constructor(parts: EngineParts, text: readonly number[], kv: KvRequest, slot: number) {
    const situation = { fits: true, canProject: true, canPredict: true };
    const { settings } = resolveKv({ sinks: 4, window: 12, ...kv }, parts.info.model, situation);
    this.#parts = parts;
    this.#text = text;
    this.#need = { numRows: text.length, maxRows: text.length, settings };
    this.#slot = slot;
  }

  async prefill(count: number): Promise<void> {
    await this.#begin(this.#slot);
    const slot = this.#slot;
    for (let start = 0; start < count; start += CHUNK) {
      const end = Math.min(count, start + CHUNK);
      const tokens = this.#text.slice(start, end);
      const sample = end === count ? this.#sample(count) : null;
      const chunk = { slot, start, tokens, total: count, sample, scoring: null };
      await this.#parts.runner.prefill(chunk);
    }
    this.#position = count;
  }

  async decode(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const position = this.#position++;
      const sample = this.#sample(position + 1);
      const row = { slot: this.#slot, position, token: this.#text[position]!, sample };
      const [sampled] = await this.#parts.runner.decode([row]);
      this.nll.push(-sampled!.logprob!.logprob);
    }
  }

  async park(): Promise<void> {
    this.#parked = await this.#parts.runner.park(this.#slot);
    assert.ok(this.#parked !== null);
    this.#parts.kv.release(this.#slot);
  }

  async restore(slot: number): Promise<void> {
    this.#slot = slot;
    await this.#begin(slot);
    await this.#parts.runner.restore(slot, this.#parked!);
  }

  async #begin(slot: number): Promise<void> {
    this.#parts.kv.begin(slot, this.#need);
    await this.#parts.runner.begin(slot, this.#need);
  }

  #sample(next: number): SampleSpec {
    return { ...FORCED, forced: this.#text[next] ?? 0 };
  }

  [Symbol.dispose](): void {
    this.#parts.kv.release(this.#slot);
  }
}

Deno.test("sequences that are parked and go on in another slot give the same", async () => {
  const texts = [textIds(130, 320, 1), textIds(140, 320, 2)];
  await using opened = await open(2);
  const { parts } = opened;
  for (
    const kv of [
      { policy: "h2o", budget: { rows: 20 } },
      { policy: "h2o", budget: { rows: 20 }, interval: 9 },
      { policy: "snapkv", budget: { rows: 20 } },
      { policy: "quest", budget: { rows: 60 }, interval: 99 },
      { policy: "oracle", budget: { rows: 20 }, interval: 99, neighbours: false },
      { policy: "tokenbutler", budget: { rows: 20 } },
      { policy: "tokenbutler", budget: { rows: 20 }, interval: 7 },
    ] as KvRequest[]
  ) {
    const run = async (swaps: boolean) => {
      using first = new HandRun(parts, texts[0]!, kv, 0);
      using second = new HandRun(parts, texts[1]!, kv, 1);
      await first.prefill(90);
      await second.prefill(95);
      for (let round = 0; round < 3; round++) {
        await first.decode(5);
        await second.decode(5);
        // The second time nothing was selected since.
        for (let time = 0; swaps && time < 2; time++) {
          const slot = (round + time) % 2;
          await first.park();
          await second.park();
          await second.restore(slot);
          await first.restore(1 - slot);
        }
      }
      await first.decode(8);
      await second.decode(8);
      return [...first.nll, ...second.nll];
    };
    const off = worst(await run(true), await run(false));
    console.log(`${kv.policy}, interval ${kv.interval ?? 1}: NLL at most ${figure(off)} off`);
    assert.ok(off <= NLL_BOUND, `${kv.policy} is off by ${off}`);
  }
});
