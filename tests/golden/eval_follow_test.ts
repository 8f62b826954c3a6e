/** Texts that are followed together, each of its own length and under its own policy, against alone. */
import { type KvRequest, resolveKv } from "../../src/butler/settings.ts";
import { RowScorer } from "../../src/eval/rows.ts";
import { openEngine } from "./_engine.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  textIds,
  worst,
} from "./_offload.ts";
import { generate, margin } from "./_requests.ts";
import { assert } from "std-testing";

const FEW = { sinks: 4, window: 9, budget: { rows: 13 } } as const;

const TEXTS: readonly { kv: KvRequest; prefilled: number; length: number }[] = [
  { kv: { policy: "snapkv", ...FEW }, prefilled: 120, length: 150 },
  {
    kv: {
      policy: "tokenbutler",
      ...FEW,
      table: {
        layers: [
          { role: "window" },
          { role: "selected", budgets: [7, 19] },
          { role: "selected", budgets: [20, 6] },
        ],
      },
    },
    prefilled: 130,
    length: 171,
  },
  { kv: { policy: "h2o", ...FEW }, prefilled: 101, length: 140 },
  { kv: { policy: "oracle", ...FEW }, prefilled: 90, length: 133 },
  { kv: { policy: "loki", ...FEW, interval: 4 }, prefilled: 140, length: 160 },
];

Deno.test("texts of different lengths and policies are followed as each would be alone", async () => {
  const options = {
    calibration: await makeCalibration(),
    predictor: await makePredictor(),
    maxParameters: 1,
    contextLength: 256,
  };
  const path = await offloadedModel();
  await using alone = await openEngine(path, options);
  await using many = await openEngine(path, { ...options, maxSequences: 6 });
  const texts = TEXTS.map(({ kv, prefilled, length }, index) => ({
    ids: textIds(length, 320, 20 + index),
    prefilled,
    settings: resolveKv(kv, { numLayers: 3, numKvHeads: 2 }, {
      fits: true,
      canProject: true,
      canPredict: true,
    }).settings,
  }));
  const found = await new RowScorer(many.parts, 256).follow(texts, 2);
  for (const [index, { ids, prefilled }] of texts.entries()) {
    const { kv } = TEXTS[index]!;
    const forcedIds = ids.slice(prefilled);
    const answer = await generate(alone.engine, ids.slice(0, prefilled), forcedIds.length, {
      forcedIds,
      logprobs: 2,
      kv,
    });
    // The first token is the prompt's.
    const wanted = answer.logprobs.slice(1);
    const got = found[index]!;
    const off = worst(got.map(({ logprob }) => logprob), wanted.map((entry) => entry!.logprob));
    assert.ok(off <= NLL_BOUND, `${kv.policy}: ${off} off`);
    got.forEach(({ id, top }, row) => {
      assert.equal(id, forcedIds[row + 1]);
      if (margin(wanted[row]!) < 2 * NLL_BOUND) return;
      assert.equal(top[0]!.id, wanted[row]!.top[0]!.id, `${kv.policy}, row ${row}`);
    });
  }
});
