/**
 * How often a step below the device waits for chosen rows: once for each layer that chooses, or, where
 * a producer of importance queries serves several layers, once for each producer. And how often a step
 * runs a producer and projects keys.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import { Producers } from "../../src/butler/producers.ts";
import { RowTables } from "../../src/butler/row_tables.ts";
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

/**
 * NLL of what is fed, and by decode step how often the device was waited for, producers that ran, and
 * rows whose keys were projected; the same and passes by chunk of the prompt.
 */
async function feed(kv: KvRequest, stride: number, tiers: Partial<TierOptions>) {
  const { read } = Readback.prototype;
  const { encode } = Producers.prototype;
  const { writeStore } = RowTables.prototype;
  const { beginComputePass } = GPUCommandEncoder.prototype;
  const none = { waits: 0, producers: 0, projected: 0, passes: 0 };
  const now = { ...none };
  const chunks: (typeof none)[] = [];
  const steps: (typeof none)[] = [];
  GPUCommandEncoder.prototype.beginComputePass = function (...args) {
    now.passes++;
    return beginComputePass.apply(this, args);
  };
  Readback.prototype.read = function (bytes) {
    now.waits++;
    return read.call(this, bytes);
  };
  Producers.prototype.encode = function (...args) {
    now.producers++;
    encode.apply(this, args);
  };
  RowTables.prototype.writeStore = function (kind, rows, from) {
    now.projected += rows.length;
    writeStore.call(this, kind, rows, from);
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
        prefilled: () => void (chunks.push({ ...now }), Object.assign(now, none)),
        decoded: () => void (steps.push({ ...now }), Object.assign(now, none)),
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
    const by = (name: keyof typeof none) => steps.map((step) => step[name]);
    return {
      nll: answer.logprobs.map((entry) => -entry!.logprob),
      waits: by("waits"),
      producers: by("producers"),
      projected: by("projected"),
      chunks,
    };
  } finally {
    Readback.prototype.read = read;
    Producers.prototype.encode = encode;
    RowTables.prototype.writeStore = writeStore;
    GPUCommandEncoder.prototype.beginComputePass = beginComputePass;
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

Deno.test("producers run where rows are chosen, and keys are projected when they leave the window", async () => {
  for (const tiers of [{}, BELOW]) {
    const each = await feed({ policy: "tokenbutler", window: 4 }, 4, tiers);
    assert.deepEqual(each.producers, new Array(FED - 1).fill(2));
    assert.deepEqual(each.projected, [0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0]);
    const kept = await feed({ policy: "tokenbutler", window: 4, interval: 4 }, 4, tiers);
    assert.deepEqual(kept.producers, [2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0]);
    const dense = await feed({ policy: "dense" }, 4, tiers);
    assert.deepEqual(dense.producers, new Array(FED - 1).fill(0));
  }
});

Deno.test("importance keys of a prompt are written in the pass that writes its rows", async () => {
  for (const tiers of [{}, BELOW]) {
    const dense = await feed({ policy: "dense" }, 4, tiers);
    const kept = await feed({ policy: "tokenbutler" }, 4, tiers);
    const by = (chunks: typeof kept.chunks, name: "passes" | "projected") =>
      chunks.map((chunk) => chunk[name]);
    const rows = by(kept.chunks, "projected");
    assert.equal(rows.reduce((sum, count) => sum + count, 0), PROMPT);
    assert.ok(rows.length > 1 && rows.every((count) => count > 0), `${rows}`);
    assert.deepEqual(by(dense.chunks, "projected"), rows.map(() => 0));
    // Past the first chunk, where engine and sequence begin.
    assert.deepEqual(by(kept.chunks, "passes").slice(1), by(dense.chunks, "passes").slice(1));
  }
});
