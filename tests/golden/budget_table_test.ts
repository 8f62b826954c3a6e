/**
 * Budgets that differ from head to head by a calibrated table, on a tiny model: settings that cover
 * the context equal dense attention, and few rows give the same on the device and below it. Which
 * policy ranks the rows is of no matter here, so it is one that needs no predictor.
 */
import { type BudgetTable, rowsAt } from "../../src/butler/budget_table.ts";
import type { KvRequest } from "../../src/butler/settings.ts";
import type { SequenceNeed } from "../../src/kv/types.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { assert, fc } from "std-testing";
import { anyTable, tableOf } from "../butler/_tables.ts";
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
import { type Answer, generate } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PATH = await offloadedModel();
const TEXT = textIds(198, 320);
const NUM_PROMPT = 150;
const SIZES: KvRequest = { sinks: 8, window: 16 };
const NUM_CHOSEN = TEXT.length - 24;

/** A window, a head with nothing, one with much. */
const TABLE = tableOf(["window", "selected", "selected"], [
  [[0, 0], [10, 0], [24, 6]],
  [[0, 0], [20, 0], [50, 90]],
]);
/** Every layer selects. */
const ALL = tableOf(["selected", "selected", "selected"], [[[3, 21], [40, 7], [0, 12]]]);

/** An engine whose sequences follow a table; null: what their requests say. */
function open(
  table: () => BudgetTable | null,
  tiers: Partial<TierOptions>,
): Promise<TestEngine> {
  const shaped = (need: SequenceNeed): SequenceNeed => {
    const budgetTable = table();
    if (budgetTable === null || need.settings.policy === "dense") return need;
    const layers = need.settings.layers.map(({ weights }, layer) => ({
      role: budgetTable.roles[layer]!,
      weights,
    }));
    return { ...need, settings: { ...need.settings, layers, budgetTable } };
  };
  return openEngine(PATH, {
    contextLength: 256,
    calibration: CALIBRATION,
    tiers: { ...DEFAULT_TIERS, ...tiers, prefixCache: false },
  }, ({ runner, kv }) => {
    const begin = runner.begin.bind(runner);
    runner.begin = (slot, need) => begin(slot, shaped(need));
    const place = kv.begin.bind(kv);
    kv.begin = (slot, need) => place(slot, shaped(need));
    const fits = kv.canBegin.bind(kv);
    kv.canBegin = (slot, need) => fits(slot, shaped(need));
    return {};
  });
}

async function force({ engine }: TestEngine, kv: KvRequest): Promise<Answer> {
  const forcedIds = TEXT.slice(NUM_PROMPT);
  return await generate(engine, TEXT.slice(0, NUM_PROMPT), forcedIds.length, {
    forcedIds,
    logprobs: 0,
    kv: { ...SIZES, ...kv },
  });
}

const nllOf = ({ logprobs }: Answer) => logprobs.map((entry) => -entry!.logprob);

async function nll(
  table: BudgetTable | null,
  kv: KvRequest,
  tiers: Partial<TierOptions> = {},
): Promise<number[]> {
  await using opened = await open(() => table, tiers);
  return nllOf(await force(opened, kv));
}

Deno.test("a table whose mean covers the context equals dense attention, wherever the rows are", async () => {
  const disk = await Deno.makeTempDir();
  try {
    const dense = await nll(null, { policy: "dense" });
    let turn = 0;
    for (const tiers of [{}, onDevice(4), onDevice(4, { hostBytes: 0, diskDir: disk })]) {
      let table = TABLE;
      await using opened = await open(() => table, tiers);
      for (table of [TABLE, ALL]) {
        for (
          const more of [
            // Exactly all rows: the mean is what lies between sinks and window at the end.
            { budget: { rows: NUM_CHOSEN } },
            { budget: { rows: 1000 }, interval: 3 },
            { budget: { share: 1 }, interval: 4, fetch: "ahead" },
          ] as KvRequest[]
        ) {
          // By turns: each meets every table, every place and every setting.
          const policy = turn++ % 2 === 0 ? "loki" : "oracle";
          const answer = await force(opened, { policy, ...more });
          const off = worst(nllOf(answer), dense);
          assert.ok(off <= NLL_BOUND, `${policy} ${JSON.stringify([more, tiers])}: off by ${off}`);
          assert.ok(answer.kv?.settings.budgetTable === table, "the table was not in use");
        }
      }
    }
  } finally {
    await Deno.remove(disk, { recursive: true });
  }
});

Deno.test("one row less than all is not dense attention any more", async () => {
  const dense = await nll(null, { policy: "dense" });
  const got = await nll(TABLE, { policy: "oracle", budget: { rows: NUM_CHOSEN - 40 } });
  const whole = NUM_CHOSEN - 40 + 24 - NUM_PROMPT;
  assert.ok(worst(got.slice(0, whole), dense.slice(0, whole)) <= NLL_BOUND);
  assert.ok(worst(got, dense) > NLL_BOUND);
});

Deno.test("ragged lists below the device give what they give on it", async (t) => {
  for (
    const [turn, [name, table, kv]] of ([
      ["in the mean 24", TABLE, { budget: { rows: 24 } }],
      ["kept for 4 steps", TABLE, { budget: { rows: 24 }, interval: 4 }],
      ["every layer", ALL, { budget: { rows: 24 }, interval: 2, neighbours: false }],
      ["a share", ALL, { budget: { share: 0.3 } }],
      ["a share, a window", TABLE, { budget: { share: 0.5 }, interval: 3, neighbours: false }],
      ["ahead", TABLE, { budget: { rows: 24 }, fetch: "ahead", interval: 2, neighbours: false }],
      ["full heads", ALL, { budget: { rows: 120 } }],
      ["nothing", TABLE, { budget: { rows: 0 } }],
    ] as const).entries()
  ) {
    await t.step(name, async () => {
      // Rows that are fetched ahead are those of other steps than on the device.
      const ahead = "fetch" in kv;
      for (const policy of ["loki", "oracle"] as const) {
        const wanted = await nll(table, { policy, ...kv }, ahead ? onDevice(6) : {});
        // The smallest pool and a larger one, by turns.
        const blocks = (turn % 2 === 0) === (policy === "loki") ? 4 : 5;
        const off = worst(await nll(table, { policy, ...kv }, onDevice(blocks)), wanted);
        console.log(`${policy}, ${name}, ${blocks} blocks: NLL at most ${figure(off)} off`);
        assert.ok(off <= NLL_BOUND, `off by ${off}`);
      }
    });
  }
});

Deno.test("a table gives what a file with its rows gives, and not what even budgets give", async () => {
  for (const [table, mean] of [[TABLE, 20], [TABLE, 33], [ALL, 20]] as const) {
    const layers = rowsAt(table, mean).map((budgets, layer) => {
      const role = table.roles[layer]!;
      return role === "selected" ? { role, budgets } : { role };
    });
    const kv = { policy: "oracle", budget: { rows: mean } } as const;
    const shaped = await nll(table, kv);
    const file = await nll(null, { ...kv, table: { layers } });
    assert.ok(worst(shaped, file) <= NLL_BOUND);
    const even = table.roles.map((role) => ({ role }));
    assert.ok(worst(shaped, await nll(null, { ...kv, table: { layers: even } })) > NLL_BOUND);
  }
});

Deno.test("the rows of a step are those of the mean", async () => {
  await using opened = await open(() => ALL, {});
  const { kv } = await force(opened, { policy: "oracle", budget: { rows: 24 } });
  // Steps before there is anything to choose have fewer; here there are none.
  assert.equal(kv?.rowsPerStep, 8 + 16 + 24);
});

Deno.test("any table in any tiers equals dense attention where its mean covers the context", async () => {
  const dense = await nll(null, { policy: "dense" });
  await fc.assert(
    fc.asyncProperty(
      anyTable(3, 2),
      fc.integer({ min: NUM_CHOSEN, max: 400 }),
      fc.integer({ min: 4, max: 9 }),
      fc.integer({ min: 1, max: 5 }),
      async (table, rows, blocks, interval) => {
        const got = await nll(
          table,
          { policy: "loki", budget: { rows }, interval },
          onDevice(blocks),
        );
        assert.ok(worst(got, dense) <= NLL_BOUND);
      },
    ),
    { numRuns: 6, endOnFailure: true },
  );
});
