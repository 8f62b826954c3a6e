/** Rows that are decoded many at a time for an evaluation, against one after the other. */
import type { KvRequest } from "../../src/butler/settings.ts";
import { resolveKv } from "../../src/butler/settings.ts";
import { rowsAreIndependent, RowScorer } from "../../src/eval/rows.ts";
import { openEngine } from "./_engine.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  textIds,
  worst,
} from "./_offload.ts";
import { scoreByForcing } from "./_requests.ts";
import { assert } from "std-testing";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PROMPT = 150;
const MODEL = { numLayers: 3, numKvHeads: 2 };
const SITUATION = { fits: true, canProject: true, canPredict: true };
const FEW = { sinks: 4, window: 9, budget: { rows: 13 } } as const;

const CASES: readonly KvRequest[] = [
  { policy: "dense" },
  { policy: "streaming", ...FEW, window: 20 },
  { policy: "oracle", ...FEW },
  { policy: "quest", ...FEW, budget: { rows: 51 } },
  { policy: "loki", ...FEW },
  { policy: "tokenbutler", ...FEW },
  { policy: "tokenbutler", ...FEW, budget: { share: 0.25 } },
  { policy: "h2o", ...FEW },
  { policy: "snapkv", ...FEW },
  { policy: "loki", ...FEW, interval: 4, neighbours: true },
  {
    policy: "loki",
    ...FEW,
    table: {
      layers: [{ role: "dense" }, { role: "selected", interval: 4 }, { role: "selected" }],
    },
  },
];

Deno.test("rows that are decoded together count as if each was decoded alone", async (t) => {
  const options = {
    calibration: CALIBRATION,
    predictor: PREDICTOR,
    kvType: "f32",
    contextLength: 256,
  } as const;
  const path = await offloadedModel();
  await using alone = await openEngine(path, options);
  await using many = await openEngine(path, { ...options, maxSequences: 44 });
  const scorer = new RowScorer(many.parts, 256);
  const windows = [textIds(PROMPT + 45, 320), textIds(PROMPT + 45, 320, 8)];
  const dense = await scorer.score(windows, PROMPT, settingsOf({ policy: "dense" }));
  for (const kv of CASES) {
    const independent = rowsAreIndependent(settingsOf(kv));
    await t.step(
      `${JSON.stringify(kv)}, ${independent ? "one pass" : "steps"}`,
      async () => {
        const got = await scorer.score(windows, PROMPT, settingsOf(kv));
        for (const [index, ids] of windows.entries()) {
          const wanted = await scoreByForcing(alone.engine, ids, PROMPT, { kv });
          // The first token is the prompt's.
          const off = worst(got[index]!, wanted.slice(1));
          assert.ok(off <= NLL_BOUND, `window ${index}: ${off} off`);
        }
        if (kv.policy !== "dense") {
          assert.ok(worst(got[0]!, dense[0]!) > 0.01, "all rows were attended to");
        }
      },
    );
  }
});

function settingsOf(kv: KvRequest) {
  return resolveKv(kv, MODEL, SITUATION).settings;
}
