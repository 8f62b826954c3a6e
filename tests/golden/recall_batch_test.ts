/** Recall that is measured in batches of sequences under different policies is that of each alone. */
import { type KvRequest, POLICY_NAMES } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  onDevice,
  textIds,
  worst,
} from "./_offload.ts";
import { type Answer, generate } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PATH = await offloadedModel();
/** Tokens that are fed one by one. */
const FED = 30;
/** Dense attention has nothing to measure on the device. */
const MEASURED = POLICY_NAMES.filter((policy) => policy !== "dense");

function open(tiers: Partial<TierOptions>, maxSequences: number): Promise<TestEngine> {
  return openEngine(PATH, {
    contextLength: 320,
    maxSequences,
    calibration: CALIBRATION,
    predictor: PREDICTOR,
    tiers: { ...DEFAULT_TIERS, prefixCache: false, ...tiers },
  });
}

/** Runs the sequence of a policy; each has a text, an interval and a turn to be measured of its own. */
function start({ engine }: TestEngine, index: number): Promise<Answer> {
  const kv: KvRequest = {
    policy: MEASURED[index]!,
    sinks: 8,
    window: 16,
    budget: { rows: 24 },
    recallEvery: 2 + index % 3,
    interval: 1 + index % 3,
    neighbours: false,
  };
  const text = textIds(150 + 20 * index, 320, index + 1);
  const forcedIds = text.slice(-FED);
  return generate(engine, text.slice(0, -FED), FED, { forcedIds, logprobs: 0, kv });
}

function nll({ logprobs }: Answer): number[] {
  return logprobs.map((entry) => -entry!.logprob);
}

Deno.test("recall in a batch is what each sequence has alone, on the device and below it", async () => {
  const alone: Answer[] = [];
  {
    await using opened = await open({}, 1);
    for (let i = 0; i < MEASURED.length; i++) alone.push(await start(opened, i));
  }
  // Room for all, for some at a time, and for parts of one.
  for (const tiers of [{}, onDevice(24), onDevice(9)]) {
    await using opened = await open(tiers, 4);
    const together = await Promise.all(MEASURED.map((_, i) => start(opened, i)));
    together.forEach((answer, i) => {
      const policy = MEASURED[i]!;
      const off = worst(nll(answer), nll(alone[i]!));
      assert.ok(off <= NLL_BOUND, `${policy} is off by ${off}`);
      const { mass, overlap, steps } = answer.kv!.recall!;
      const wanted = alone[i]!.kv!.recall!;
      assert.equal(steps, wanted.steps);
      assert.equal(steps, Math.floor((FED - 1) / (2 + i % 3)));
      assert.ok(Math.abs(mass - wanted.mass) < 1e-4, `${policy}: mass ${mass}`);
      assert.ok(Math.abs(overlap - wanted.overlap) < 0.01, `${policy}: overlap ${overlap}`);
    });
  }
});
