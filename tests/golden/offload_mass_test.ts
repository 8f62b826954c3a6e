/**
 * Policies that count the attention which rows receive, for sequences below the device: the sums, and
 * so the choices, are those of a sequence on it, wherever the rows are.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { force, nll, nllOf, ON_DEVICE, open } from "./_ahead.ts";
import { figure } from "./_golden.ts";
import { NLL_BOUND, onDevice, textIds, worst } from "./_offload.ts";

const TEXT = textIds(230, 320);
const SOME: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 } };
const POLICIES = ["h2o", "snapkv"] as const;

/** Places of the rows: at least sinks, window and a page to fetch into. */
function places(disk: string): Record<string, Partial<TierOptions>> {
  return {
    "smallest pool": onDevice(4),
    "larger pool": onDevice(6),
    "rest on disk": onDevice(4, { hostBytes: 0, diskDir: disk }),
  };
}

Deno.test("sums of attention are the same below the device", async (t) => {
  const disk = await Deno.makeTempDir();
  // Of the larger budget not all rows find a slot in the smallest pool: some pass through.
  const cases = [["h2o", 1, 24], ["h2o", 3, 110], ["snapkv", 1, 24], ["snapkv", 1, 90]] as const;
  for (const [policy, interval, rows] of cases) {
    await t.step(`${policy}, interval ${interval}, ${rows} rows`, async () => {
      const kv: KvRequest = { ...SOME, budget: { rows }, policy, interval };
      const wanted = await nll(TEXT, kv, ON_DEVICE);
      for (const [name, tiers] of Object.entries(places(disk))) {
        const off = worst(await nll(TEXT, kv, tiers), wanted);
        console.log(`${policy}, ${rows} rows, ${name}: at most ${figure(off)} off`);
        assert.ok(off <= NLL_BOUND, `${name}: off by ${off}`);
      }
    });
  }
  await Deno.remove(disk, { recursive: true });
});

Deno.test("rows fetched ahead under h2o are the same whatever the device has room for", async () => {
  const kv: KvRequest = { ...SOME, policy: "h2o", interval: 2, fetch: "ahead" };
  const larger = await nll(TEXT, kv, onDevice(7));
  const off = worst(await nll(TEXT, kv, onDevice(4)), larger);
  console.log(`h2o ahead: at most ${figure(off)} off`);
  assert.ok(off <= NLL_BOUND, `off by ${off}`);
});

Deno.test("covering settings under h2o and snapkv equal dense attention below the device", async () => {
  const dense = await nll(TEXT, { policy: "dense" }, ON_DEVICE);
  for (const policy of POLICIES) {
    for (const fetch of ["in-step", "ahead"] as const) {
      const kv: KvRequest = { ...SOME, budget: { rows: 300 }, policy, fetch };
      const off = worst(await nll(TEXT, kv, onDevice(4)), dense);
      console.log(`${policy}, ${fetch}, covering: at most ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `${policy}: off by ${off}`);
    }
  }
});

Deno.test("sequences under h2o and snapkv below the device keep their sums while they are parked", async () => {
  const texts = [0, 1, 2].map((n) => textIds(150 + 20 * n, 300 - n));
  for (const policy of POLICIES) {
    for (const interval of policy === "h2o" ? [1, 7] : [1]) {
      const kv: KvRequest = { ...SOME, policy, interval };
      const alone: number[][] = [];
      for (const text of texts) alone.push(await nll(text, kv, ON_DEVICE, 90));
      await using opened = await open(onDevice(5), { maxSequences: 3 });
      const together = await Promise.all(
        texts.map(async (text) => nllOf(await force(opened, text, kv, 90))),
      );
      together.forEach((got, i) => {
        const off = worst(got, alone[i]!);
        console.log(`${policy}, interval ${interval}, sequence ${i}: at most ${figure(off)} off`);
        assert.ok(off <= NLL_BOUND, `${policy}, sequence ${i} is off by ${off}`);
      });
    }
  }
});
