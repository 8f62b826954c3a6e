/**
 * Budgets that differ from layer to layer, so that at some lengths one layer chooses rows and another
 * has all of them: on a tiny model, on the device and below it.
 */
import type { KvRequest, KvTable } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import {
  makeCalibration,
  NLL_BOUND,
  offloadedModel,
  onDevice,
  textIds,
  worst,
} from "./_offload.ts";
import { generate } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PATH = await offloadedModel();
const TEXT = textIds(230, 320);

/** Rows of the KV heads of the second and the third layer. */
function tableOf(second: number, third: number): KvTable {
  return {
    layers: [
      { role: "dense" },
      { role: "selected", budgets: [second, second] },
      { role: "selected", budgets: [third, third] },
    ],
  };
}

function open(maxSequences: number, tiers: Partial<TierOptions> = {}): Promise<TestEngine> {
  return openEngine(PATH, {
    contextLength: 384,
    maxSequences,
    calibration: CALIBRATION,
    tiers: { ...DEFAULT_TIERS, prefixCache: false, ...tiers },
  });
}

async function nll(
  { engine }: TestEngine,
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

Deno.test("keys are kept of rows that come while their layer has nothing to choose yet", async () => {
  // The third layer chooses from the 167th row on, the second one from the first.
  const kv: KvRequest = { policy: "loki", table: tableOf(4, 150) };
  await using one = await open(1);
  const alone = await nll(one, TEXT, 60, kv);
  // One that chooses in all layers beside it keeps what the layers score by.
  await using two = await open(2);
  const [beside] = await Promise.all([
    nll(two, TEXT, 60, kv),
    nll(two, textIds(230, 320, 9), 60, { policy: "loki", table: tableOf(4, 4) }),
  ]);
  const off = worst(beside, alone);
  console.log(`alone and not alone: NLL at most ${figure(off)} apart`);
  assert.ok(off <= NLL_BOUND, `off by ${off}`);
});

Deno.test("a layer whose share comes to be all rows attends to all of them", async (t) => {
  const table = tableOf(60, 20);
  const text = TEXT.slice(0, 190);
  const cases: [string, KvRequest][] = [
    // Of the second layer: 1.05 n - 24 of n - 16 candidates.
    ["for good", { table, budget: { share: 0.7 } }],
    // All rows in two steps of three.
    ["in turns", { table, budget: { share: 2 / 3 }, sinks: 0, window: 1 }],
  ];
  for (const [name, share] of cases) {
    for (const policy of ["oracle", "loki", "h2o"] as const) {
      await t.step(`${policy}, ${name}`, async () => {
        const kv = { ...share, policy };
        const answers: number[][] = [];
        for (const tiers of [{}, onDevice(5)]) {
          await using opened = await open(1, tiers);
          answers.push(await nll(opened, text, 150, kv));
        }
        const off = worst(answers[0]!, answers[1]!);
        console.log(`${policy}, ${name}: NLL at most ${figure(off)} apart`);
        assert.ok(off <= NLL_BOUND, `off by ${off}`);
      });
    }
  }
});

Deno.test("the rows of a step are those of layers that choose, where others have a window", async () => {
  await using opened = await open(1);
  const { kv } = await generate(opened.engine, TEXT.slice(0, 150), 8, {
    kv: {
      policy: "oracle",
      sinks: 4,
      window: 12,
      table: { layers: [{ role: "window" }, { role: "selected" }, { role: "selected" }] },
      budget: { rows: 20 },
      neighbours: true,
    },
  });
  assert.equal(kv?.rowsPerStep, 4 + 12 + 2 * 20);
});
