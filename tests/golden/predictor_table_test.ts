/** A predictor's file brings a table: requests follow it from the file to the rows of a step. */
import type { KvRequest } from "../../src/butler/settings.ts";
import { wireReport } from "../../src/butler/report.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { tableOf } from "../butler/_tables.ts";
import { openEngine, type TestEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import { makePredictor, NLL_BOUND, offloadedModel, onDevice, textIds, worst } from "./_offload.ts";
import { type Answer, generate } from "./_requests.ts";

const TABLE = tableOf(["window", "selected", "selected"], [
  [[0, 0], [10, 0], [24, 6]],
  [[0, 0], [20, 0], [50, 90]],
]);
const PATH = await offloadedModel();
const PREDICTOR = await makePredictor(PATH, 2, TABLE);
const TEXT = textIds(198, 320);
const NUM_PROMPT = 150;
/** Rows between sinks and window at the end. */
const BETWEEN = TEXT.length - 24;

function open(tiers: Partial<TierOptions> = {}, predictor = PREDICTOR): Promise<TestEngine> {
  return openEngine(PATH, {
    contextLength: 256,
    predictor,
    tiers: { ...DEFAULT_TIERS, ...tiers, prefixCache: false },
  });
}

async function force({ engine }: TestEngine, kv: KvRequest): Promise<Answer> {
  const forcedIds = TEXT.slice(NUM_PROMPT);
  return await generate(engine, TEXT.slice(0, NUM_PROMPT), forcedIds.length, {
    forcedIds,
    logprobs: 0,
    kv: { policy: "tokenbutler", sinks: 8, window: 16, ...kv },
  });
}

const nllOf = ({ logprobs }: Answer) => logprobs.map((entry) => -entry!.logprob);
const said = ({ kv }: Answer) => {
  const { dense_layers, table, budget } = wireReport(kv!) as Record<string, unknown>;
  return { dense_layers, table, budget };
};

Deno.test("tokenbutler takes the table of its predictor's file, and says so", async () => {
  await using opened = await open();
  assert.deepEqual(opened.engine.info.kv.budgetTable, TABLE);
  const answer = await force(opened, { budget: { rows: 20 } });
  assert.deepEqual(said(answer), { dense_layers: 0, table: true, budget: 20 });
  // Layer 0 has a window of as many rows as the others have in the mean.
  assert.equal(answer.kv?.rowsPerStep, 8 + 16 + 20);
  const even = await force(opened, { budget: { rows: 20 }, table: false });
  assert.deepEqual(said(even), { dense_layers: 1, table: false, budget: 20 });
  assert.equal(even.kv?.rowsPerStep, 8 + 16 + 20);
  const first = await force(opened, { budget: { rows: 20 }, denseLayers: 1 });
  assert.deepEqual(said(first), { dense_layers: 1, table: true, budget: 20 });
  const nll = nllOf(answer);
  assert.ok(worst(nll, nllOf(even)) > NLL_BOUND && worst(nll, nllOf(first)) > NLL_BOUND);
  // A table of the request's own with the same rows gives the same.
  const layers = TABLE.roles.map((role, layer) =>
    role === "selected" ? { role, budgets: TABLE.points[0]!.rows[layer]! } : { role }
  );
  const own = await force(opened, { table: { layers } });
  const calibrated = await force(opened, { budget: { rows: 10 } });
  assert.equal(own.kv?.settings.budgetTable, undefined);
  assert.ok(worst(nllOf(own), nllOf(calibrated)) <= NLL_BOUND);
});

Deno.test("with the table of a file, settings that cover the context equal dense attention", async () => {
  await using alone = await open();
  const dense = nllOf(await force(alone, { policy: "dense" }));
  for (const tiers of [{}, onDevice(4)]) {
    await using opened = await open(tiers);
    for (
      const kv of [
        { budget: { rows: BETWEEN } },
        { budget: { rows: BETWEEN }, denseLayers: 1, interval: 3 },
        { budget: { share: 1 }, interval: 2, fetch: "ahead" },
      ] as const
    ) {
      const answer = await force(opened, kv);
      assert.equal(said(answer).table, true);
      const off = worst(nllOf(answer), dense);
      console.log(`${JSON.stringify(kv)}: NLL at most ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `off by ${off}`);
    }
  }
});

Deno.test("restless layers of a file's table are those of a table that says so", async () => {
  const restless = await makePredictor(PATH, 2, { ...TABLE, restless: [2] });
  await using opened = await open({}, restless);
  const kv = { budget: { rows: 10 }, interval: 9, neighbours: false };
  const replied = await force(opened, kv);
  assert.deepEqual(wireReport(replied.kv!).restless_layers, [2]);
  const answer = nllOf(replied);
  const layers = TABLE.roles.map((role, layer) => ({
    role,
    ...(role === "selected" ? { budgets: TABLE.points[0]!.rows[layer]! } : {}),
    ...(layer === 2 ? { interval: 1 } : {}),
  }));
  const { budget: _, ...others } = kv;
  const own = nllOf(await force(opened, { ...others, table: { layers } }));
  assert.deepEqual(answer, own);
  // It matters here.
  await using calm = await open();
  assert.ok(worst(answer, nllOf(await force(calm, kv))) > NLL_BOUND);
  await using below = await open(onDevice(4), restless);
  for (const more of [{}, { neighbours: true }]) {
    const asked = { ...kv, ...more };
    const off = worst(nllOf(await force(below, asked)), nllOf(await force(opened, asked)));
    console.log(`${JSON.stringify(asked)}: NLL at most ${figure(off)} off below the device`);
    assert.ok(off <= NLL_BOUND, `off by ${off}`);
  }
});

Deno.test("with the table of a file, few rows are the same below the device", async () => {
  await using above = await open();
  await using below = await open(onDevice(4));
  for (
    const kv of [
      { budget: { rows: 10 } },
      { budget: { rows: 24 }, interval: 3 },
      { budget: { share: 0.4 }, denseLayers: 1 },
      // More than the largest calibrated mean: some heads have all there is.
      { budget: { rows: 100 } },
    ] as const
  ) {
    const off = worst(nllOf(await force(below, kv)), nllOf(await force(above, kv)));
    console.log(`${JSON.stringify(kv)}: NLL at most ${figure(off)} off`);
    assert.ok(off <= NLL_BOUND, `off by ${off}`);
  }
});
