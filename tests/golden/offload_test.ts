/**
 * Sequences that do not fit the device give what they give on it: with settings that cover the whole
 * context every policy equals dense attention, wherever the rows are.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  onDevice,
  textIds,
  worst,
} from "./_offload.ts";
import { generate, scoreByForcing } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PATH = await offloadedModel();

const SETTINGS: KvRequest = { sinks: 8, window: 16, budget: { rows: 1000 } };
/** Policies whose recall is measured. */
const RECALLED = ["oracle", "loki", "tokenbutler", "quest", "h2o", "snapkv", "streaming"] as const;

async function nll(
  text: readonly number[],
  prefill: number,
  kv: KvRequest,
  tiers: Partial<TierOptions>,
  importanceKeys: "f16" | "int8" = "f16",
): Promise<number[]> {
  await using opened = await openEngine(PATH, {
    importanceKeys,
    contextLength: 256,
    kv,
    calibration: CALIBRATION,
    predictor: PREDICTOR,
    tiers: { ...DEFAULT_TIERS, ...tiers },
  });
  return await scoreByForcing(opened.engine, text, prefill);
}

Deno.test("a window that is a share of all rows is the same below the device", async () => {
  const text = textIds(230, 320);
  const layers = [{ role: "window" }, { role: "selected" }, { role: "window" }] as const;
  for (const share of [0.4, 0.9, 1]) {
    const kv: KvRequest = { ...SETTINGS, policy: "oracle", table: { layers }, budget: { share } };
    const wanted = await nll(text, 150, kv, {});
    for (const blocks of [4, 6]) {
      const off = worst(await nll(text, 150, kv, onDevice(blocks)), wanted);
      console.log(`share ${share}, ${blocks} blocks: NLL at most ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `off by ${off}`);
    }
  }
});

Deno.test("a sequence below the device equals one on it", async (t) => {
  const text = textIds(230, 320);
  const disk = await Deno.makeTempDir();
  const dense = await nll(text, 150, { ...SETTINGS, policy: "dense" }, {});
  for (const policy of ["dense", "oracle", "quest", "loki", "tokenbutler", "streaming"] as const) {
    const covering: KvRequest = policy === "streaming"
      ? { sinks: 8, window: 300 }
      : { ...SETTINGS, budget: { rows: 300 } };
    for (
      const [name, tiers] of Object.entries({
        "smallest pool": onDevice(policy === "streaming" ? 12 : 4),
        "larger pool": onDevice(6),
        "rest on disk": onDevice(4, { hostBytes: 0, diskDir: disk }),
      })
    ) {
      if (policy === "streaming" && name !== "smallest pool") continue;
      if (name === "larger pool" && policy !== "dense" && policy !== "loki") continue;
      await t.step(`${policy}, covering settings, ${name}`, async () => {
        const off = worst(await nll(text, 150, { ...covering, policy }, tiers), dense);
        console.log(`${policy}, ${name}: NLL at most ${figure(off)} off`);
        assert.ok(off <= NLL_BOUND, `off by ${off}`);
      });
    }
  }
  for (const policy of ["oracle", "quest", "loki", "tokenbutler", "streaming"] as const) {
    for (const [interval, neighbours] of [[1, false], [4, false], [4, true]] as const) {
      const ranked = policy === "oracle" || policy === "loki" || policy === "tokenbutler";
      if (neighbours && !ranked) continue;
      const some: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 }, policy, interval };
      const how = neighbours ? " with neighbours" : "";
      await t.step(`${policy}, some rows, interval ${interval}${how}`, async () => {
        const kv = { ...some, neighbours };
        const wanted = await nll(text, 150, kv, {});
        // The smallest pool, and one that has a block to spare.
        for (const blocks of interval === 1 ? [4, 5] : [4]) {
          const off = worst(await nll(text, 150, kv, onDevice(blocks)), wanted);
          console.log(
            `${policy}, interval ${interval}, ${blocks} blocks: at most ${figure(off)} off`,
          );
          assert.ok(off <= NLL_BOUND, `off by ${off}`);
        }
      });
    }
  }
  for (const policy of ["loki", "tokenbutler"] as const) {
    await t.step(`${policy}, short keys in bytes`, async () => {
      const kv: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 }, policy };
      const wanted = await nll(text, 150, kv, {}, "int8");
      assert.ok(worst(await nll(text, 150, kv, onDevice(4), "int8"), wanted) <= NLL_BOUND);
      assert.ok(worst(wanted, dense) > NLL_BOUND);
    });
  }
  await Deno.remove(disk, { recursive: true });
});

Deno.test("sequences that do not fit together are parked and give what they give alone", async () => {
  const texts = [0, 1, 2].map((n) => textIds(120 + 20 * n, 300 - n));
  for (
    const [kv, tiers] of [
      [{ policy: "dense" }, onDevice(8)],
      [{ ...SETTINGS, budget: { rows: 16 }, policy: "loki" }, onDevice(8)],
      [{ ...SETTINGS, budget: { rows: 16 }, policy: "loki" }, onDevice(4)],
      [{ ...SETTINGS, budget: { rows: 16 }, policy: "tokenbutler" }, onDevice(8)],
      [{ ...SETTINGS, budget: { rows: 16 }, policy: "tokenbutler", interval: 3 }, onDevice(4)],
      [{ ...SETTINGS, budget: { rows: 16 }, policy: "oracle", interval: 7 }, onDevice(8)],
      [{ ...SETTINGS, budget: { rows: 16 }, policy: "oracle", interval: 7 }, onDevice(5)],
    ] as [KvRequest, Partial<TierOptions>][]
  ) {
    const open = (more: Partial<TierOptions>, maxSequences: number) =>
      openEngine(PATH, {
        contextLength: 256,
        maxSequences,
        kv,
        calibration: CALIBRATION,
        predictor: PREDICTOR,
        tiers: { ...DEFAULT_TIERS, ...more },
      });
    const alone: number[][] = [];
    {
      await using opened = await open({}, 1);
      for (const text of texts) alone.push(await scoreByForcing(opened.engine, text, 60));
    }
    await using opened = await open(tiers, 3);
    const together = await Promise.all(
      texts.map((text) => scoreByForcing(opened.engine, text, 60)),
    );
    together.forEach((got, i) => {
      const off = worst(got, alone[i]!);
      console.log(`${kv.policy}, sequence ${i}: NLL at most ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `sequence ${i} is off by ${off}`);
    });
  }
});

Deno.test("the recall meter measures the same on the device and below it", async () => {
  const text = textIds(180, 320);
  const recall = async (kv: KvRequest, tiers: Partial<TierOptions>) => {
    await using opened = await openEngine(PATH, {
      contextLength: 256,
      kv,
      calibration: CALIBRATION,
      predictor: PREDICTOR,
      tiers: { ...DEFAULT_TIERS, ...tiers },
    });
    const forcedIds = text.slice(150);
    const answer = await generate(opened.engine, text.slice(0, 150), forcedIds.length, {
      forcedIds,
    });
    return answer.kv!.recall!;
  };
  const some: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 }, recallEvery: 3 };
  for (const policy of RECALLED) {
    const on = await recall({ ...some, policy }, {});
    const below = await recall({ ...some, policy }, onDevice(4));
    console.log(`${policy}: mass ${on.mass.toFixed(4)}, overlap ${on.overlap.toFixed(4)}`);
    assert.equal(on.steps, 9);
    assert.equal(below.steps, 9);
    assert.ok(Math.abs(on.mass - below.mass) < 1e-3, `${policy}: ${below.mass} below the device`);
    assert.ok(Math.abs(on.overlap - below.overlap) < 0.02, `${policy}: ${below.overlap} below it`);
    assert.ok(on.mass > 0.1 && on.mass < 1);
    if (policy === "oracle") assert.equal(on.overlap, 1);
  }
  const all = await recall({ ...some, budget: { rows: 300 }, policy: "loki" }, onDevice(4));
  assert.deepEqual(all, { mass: 1, overlap: 1, steps: 9 });
});

Deno.test("replies say what a step without a choice of rows found on the device", async () => {
  const text = textIds(230, 320);
  const report = async (kv: KvRequest, tiers: Partial<TierOptions>) => {
    await using opened = await openEngine(PATH, {
      contextLength: 256,
      calibration: CALIBRATION,
      tiers: { ...DEFAULT_TIERS, ...tiers },
    });
    const forcedIds = text.slice(150);
    const promptIds = text.slice(0, 150);
    return (await generate(opened.engine, promptIds, forcedIds.length, { forcedIds, kv })).kv!;
  };
  const dense: KvRequest = { policy: "dense", sinks: 8, window: 16 };
  const below = await report(dense, onDevice(4));
  // Each of three layers has its first block and its two newest ones; the others pass through.
  let wanted = 0;
  let streamed = 0;
  let steps = 0;
  for (let n = 151; n < 230; n++) {
    wanted += n;
    streamed += (Math.ceil(n / 32) - 3) * 32;
    steps++;
  }
  assert.equal(below.residentShare, (wanted - streamed) / wanted);
  // 2 KV heads of 32 values, keys and values in f32.
  assert.equal(below.bytesPerStep, 3 * streamed * 512 / steps);
  assert.equal((await report(dense, {})).residentShare, 1);
  const streaming: KvRequest = { policy: "streaming", sinks: 8, window: 16 };
  assert.equal((await report(streaming, onDevice(4))).residentShare, 1);
  // A dense layer of a policy that chooses rows is streamed, and is not what its figure is about.
  const loki: KvRequest = { policy: "loki", sinks: 8, window: 16, budget: { rows: 2 } };
  const some = await report(loki, onDevice(4));
  assert.ok(some.residentShare > 0 && some.residentShare < 1);
  assert.ok(some.rowsPerStep < 60);
});
