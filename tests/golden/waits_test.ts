/**
 * How often a step below the device waits for chosen rows: once for each layer that chooses, or, where
 * a producer of importance queries serves several layers, once for each producer.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { Readback } from "../../src/gpu/readback.ts";
import { assert } from "std-testing";
import { openEngine } from "./_engine.ts";
import { GENERATED, GENERATED_PAGE, generatedModel } from "./_generated.ts";
import { makeCalibration, makePredictor, NLL_BOUND, textIds, worst } from "./_offload.ts";
import { generate } from "./_requests.ts";

const PROMPT = 300;
const FED = 12;

const model = await generatedModel();
globalThis.addEventListener("unload", () => Deno.removeSync(model, { recursive: true }));
const CALIBRATION = await makeCalibration(model);

/** NLL of what is fed, and by decode step how often the device was waited for. */
async function feed(kv: KvRequest, stride: number, tiers: Partial<TierOptions>) {
  const { read } = Readback.prototype;
  let count = 0;
  const waits: number[] = [];
  Readback.prototype.read = function (bytes) {
    count++;
    return read.call(this, bytes);
  };
  try {
    await using opened = await openEngine(
      model,
      {
        contextLength: 512,
        calibration: CALIBRATION,
        predictor: await makePredictor(model, stride),
        tiers: { ...DEFAULT_TIERS, prefixCache: false, ...tiers },
      },
      () => ({
        prefilled: () => void (count = 0),
        decoded: () => void (waits.push(count), count = 0),
      }),
    );
    const text = textIds(PROMPT + FED, GENERATED.vocab);
    const forcedIds = text.slice(PROMPT);
    const settings = { sinks: 4, window: 12, budget: { rows: 24 }, ...kv };
    const answer = await generate(opened.engine, text.slice(0, PROMPT), FED, {
      forcedIds,
      logprobs: 0,
      kv: settings,
    });
    return { nll: answer.logprobs.map((entry) => -entry!.logprob), waits };
  } finally {
    Readback.prototype.read = read;
  }
}

// Sinks, two blocks of a window and one for slots, in each layer, and the first one whole.
const BELOW = { deviceBytes: 60 * GENERATED_PAGE };

for (
  const [policy, stride, wanted] of [
    // Layers 1 to 7, each by itself; the token is one more.
    ["loki", 4, 8],
    // Producers at layers 0 and 4, or 0, 3 and 6, or 0 alone.
    ["tokenbutler", 4, 3],
    ["tokenbutler", 3, 4],
    ["tokenbutler", 9, 2],
  ] as const
) {
  const name = policy === "loki" ? policy : `${policy}, a producer each ${stride} layers`;
  Deno.test(`a step below the device waits ${wanted} times: ${name}`, async () => {
    const onDevice = await feed({ policy }, stride, {});
    const below = await feed({ policy }, stride, BELOW);
    assert.deepEqual(onDevice.waits, new Array(FED - 1).fill(1));
    assert.deepEqual(below.waits, new Array(FED - 1).fill(wanted));
    assert.ok(worst(below.nll, onDevice.nll) <= NLL_BOUND);
    const kept = await feed({ policy, interval: 4 }, stride, BELOW);
    assert.deepEqual(kept.waits.slice(0, 8), [wanted, 1, 1, 1, wanted, 1, 1, 1]);
  });
}
